from . import report as report
from .prediction import (
    WINDOW as WINDOW,
    Prediction as Prediction,
    all_logits as all_logits,
    bits_per_weight as bits_per_weight,
    open_evaluator as open_evaluator,
    predictions as predictions,
    windows as windows,
)
from .report import Report as Report
from .vocabulary import DATE as DATE
