from .calibration import sample_tokens
from .compare import Quality, compare, plot
from .imatrix import measure_importance, write_matrix

__all__ = ["Quality", "compare", "measure_importance", "plot", "sample_tokens", "write_matrix"]
