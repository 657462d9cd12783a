from .compare import Quality, compare, plot
from .imatrix import measure_importance, write_matrix

__all__ = ["Quality", "compare", "measure_importance", "plot", "write_matrix"]
