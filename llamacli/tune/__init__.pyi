from . import profiles as profiles
from .measure import Bench as Bench, Size as Size, Spread as Spread, bench as bench
from .profiles import tuned_costs as tuned_costs, tuned_settings as tuned_settings
from .search import Row as Row, Tuning as Tuning, tune as tune
