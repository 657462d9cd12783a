from . import report
from .logits import all_logits, open_evaluator
from .report import Report
from .text import LEAST, WINDOW, bits_per_weight, windows

__all__ = [
    "LEAST",
    "WINDOW",
    "Report",
    "all_logits",
    "bits_per_weight",
    "open_evaluator",
    "report",
    "windows",
]
