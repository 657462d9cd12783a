from . import report
from .logits import all_logits, open_evaluator
from .prediction import WINDOW, Prediction, predict, windows
from .report import Report
from .rows import finite
from .text import bits_per_weight

__all__ = [
    "WINDOW",
    "Prediction",
    "Report",
    "all_logits",
    "bits_per_weight",
    "finite",
    "open_evaluator",
    "predict",
    "report",
    "windows",
]
