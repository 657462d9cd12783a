from .constraint import Constraint, constrained
from .grammar import Grammar
from .read import check_choices, read_shape

__all__ = ["Constraint", "Grammar", "check_choices", "constrained", "read_shape"]
