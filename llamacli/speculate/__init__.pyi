from .costs import MOST_ROWS, Costs, default_costs, learn_costs
from .draft import DraftModel, check_same_tokens
from .drafting import DraftingEngine
from .lookahead import Lookahead, Speculation
from .lookup import Drafted

__all__ = [
    "MOST_ROWS",
    "Costs",
    "DraftModel",
    "Drafted",
    "DraftingEngine",
    "Lookahead",
    "Speculation",
    "check_same_tokens",
    "default_costs",
    "learn_costs",
]
