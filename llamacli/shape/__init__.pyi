from .constraint import Constraint, constrained
from .gbnf import read_gbnf
from .grammar import Grammar, checked
from .read import check_choices, choice_grammar, read_shape
from .schema import read_schema

__all__ = [
    "Constraint",
    "Grammar",
    "check_choices",
    "checked",
    "choice_grammar",
    "constrained",
    "read_gbnf",
    "read_schema",
    "read_shape",
]
