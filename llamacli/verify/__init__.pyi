from . import report
from .report import Report

__all__ = ["Report", "report"]
