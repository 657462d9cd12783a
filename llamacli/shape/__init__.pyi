from .constraint import Constraint as Constraint, constrained as constrained
from .grammar import Grammar as Grammar
from .read import check_choices as check_choices, read_shape as read_shape
from .schema import moved as moved, read_schema as read_schema
