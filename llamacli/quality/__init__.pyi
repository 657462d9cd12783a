from .imatrix import measure_importance, write_matrix

__all__ = ["measure_importance", "write_matrix"]
