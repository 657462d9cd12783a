from .costs import (
    MOST_ROWS as MOST_ROWS,
    Costs as Costs,
    learn_costs as learn_costs,
    measured_costs as measured_costs,
)
from .drafting import Drafting as Drafting, DraftingEngine as DraftingEngine
from .drafts import (
    Drafted as Drafted,
    DraftModel as DraftModel,
    Drafts as Drafts,
    drafting_cost as drafting_cost,
    likely_token as likely_token,
)
from .lookahead import Lookahead as Lookahead, Speculation as Speculation
