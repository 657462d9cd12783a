from .costs import (
    MOST_ROWS as MOST_ROWS,
    Costs as Costs,
    default_costs as default_costs,
    learn_costs as learn_costs,
    measured_costs as measured_costs,
)
from .draft import (
    DraftModel as DraftModel,
    check_same_tokens as check_same_tokens,
    drafting_cost as drafting_cost,
    likely_token as likely_token,
)
from .drafting import Drafting as Drafting, DraftingEngine as DraftingEngine
from .drafts import Drafts as Drafts
from .lookahead import Lookahead as Lookahead, Speculation as Speculation
from .lookup import Drafted as Drafted
