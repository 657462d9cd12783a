from .adapters import MAX_ADAPTERS as MAX_ADAPTERS, Scales as Scales
from .context import (
    ABORTED as ABORTED,
    KEPT_SEQUENCES as KEPT_SEQUENCES,
    Part as Part,
    common_prefix as common_prefix,
    decode_error as decode_error,
    default_threads as default_threads,
)
from .engine import (
    Engine as Engine,
    NoNumbersError as NoNumbersError,
    ProgressCallback as ProgressCallback,
)
from .fit import DEFAULT_CONTEXT as DEFAULT_CONTEXT, largest_file as largest_file
from .footprint import kv_nbytes as kv_nbytes
from .kv_state import (
    Unusable as Unusable,
    restore as restore,
    save as save,
    saved_tokens as saved_tokens,
    state_key as state_key,
)
from .model import Loading as Loading, load_file as load_file, load_vocabulary as load_vocabulary
from .sampling import (
    MAX_LAST_N as MAX_LAST_N,
    MAX_SEED as MAX_SEED,
    SamplingSettings as SamplingSettings,
    choose_seed as choose_seed,
    chooser as chooser,
    is_sound as is_sound,
    sample_among as sample_among,
    sampler_chain as sampler_chain,
)
from .settings import (
    MAX_SCALE as MAX_SCALE,
    AdapterChoice as AdapterChoice,
    Asked as Asked,
    EngineSettings as EngineSettings,
    Profile as Profile,
    chosen_settings as chosen_settings,
    defaults as defaults,
    kv_types as kv_types,
)
from .vocabulary import Vocabulary as Vocabulary
