from .adapters import MAX_ADAPTERS as MAX_ADAPTERS, Scales as Scales
from .asked import (
    Asked as Asked,
    Profile as Profile,
    chosen_settings as chosen_settings,
    defaults as defaults,
)
from .context import KEPT_SEQUENCES as KEPT_SEQUENCES
from .engine import Engine as Engine, ProgressCallback as ProgressCallback
from .evaluation import ABORTED as ABORTED, common_prefix as common_prefix
from .fit import DEFAULT_CONTEXT as DEFAULT_CONTEXT
from .footprint import kv_nbytes as kv_nbytes
from .kv_state import (
    Unusable as Unusable,
    restore as restore,
    save as save,
    saved_tokens as saved_tokens,
    state_key as state_key,
)
from .largest import LargestFile as LargestFile, largest_file as largest_file
from .loading import (
    load_file as load_file,
    load_vocabulary as load_vocabulary,
    logged_reason as logged_reason,
)
from .model import Loading as Loading
from .sampling import (
    choose_seed as choose_seed,
    chooser as chooser,
    sample_among as sample_among,
    sampler_chain as sampler_chain,
)
from .settings import (
    MAX_LAST_N as MAX_LAST_N,
    MAX_SCALE as MAX_SCALE,
    MAX_SEED as MAX_SEED,
    AdapterChoice as AdapterChoice,
    EngineSettings as EngineSettings,
    SamplingSettings as SamplingSettings,
    is_sound as is_sound,
    kv_types as kv_types,
)
from .vocabulary import Vocabulary as Vocabulary
