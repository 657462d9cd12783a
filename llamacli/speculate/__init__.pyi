from .costs import MOST_ROWS, Costs, default_costs, learn_costs, measured_costs
from .draft import DraftModel, check_same_tokens, drafting_cost, likely_token
from .drafting import Drafting, DraftingEngine
from .drafts import Drafts
from .lookahead import Lookahead, Speculation
from .lookup import Drafted

__all__ = [
    "MOST_ROWS",
    "Costs",
    "DraftModel",
    "Drafted",
    "Drafting",
    "DraftingEngine",
    "Drafts",
    "Lookahead",
    "Speculation",
    "check_same_tokens",
    "default_costs",
    "drafting_cost",
    "learn_costs",
    "likely_token",
    "measured_costs",
]
