from .constraint import Constraint as Constraint, constrained as constrained
from .gbnf import read_gbnf as read_gbnf
from .grammar import Grammar as Grammar, checked as checked
from .read import (
    check_choices as check_choices,
    choice_grammar as choice_grammar,
    read_shape as read_shape,
)
from .schema import moved as moved, read_schema as read_schema
