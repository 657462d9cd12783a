from . import profiles
from .measure import Bench, Size, Spread, bench
from .profiles import keep_costs, tuned_costs, tuned_settings
from .search import Row, Tuning, tune

__all__ = [
    "Bench",
    "Row",
    "Size",
    "Spread",
    "Tuning",
    "bench",
    "keep_costs",
    "profiles",
    "tune",
    "tuned_costs",
    "tuned_settings",
]
