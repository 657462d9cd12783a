from . import profiles
from .measure import Bench, Size, Spread, bench
from .profiles import tuned_settings
from .search import Row, Tuning, tune

__all__ = [
    "Bench",
    "Row",
    "Size",
    "Spread",
    "Tuning",
    "bench",
    "profiles",
    "tune",
    "tuned_settings",
]
