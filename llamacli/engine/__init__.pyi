from .adapters import MAX_ADAPTERS, Scales
from .asked import Asked, Profile, chosen_settings, defaults
from .context import KEPT_SEQUENCES
from .engine import Engine, ProgressCallback
from .evaluation import ABORTED, common_prefix
from .fit import DEFAULT_CONTEXT
from .kv_state import Unusable, restore, save, saved_tokens, state_key
from .largest import LargestFile, largest_file
from .loading import load_file, load_vocabulary, logged_reason
from .model import Loading
from .sampling import (
    MAX_LAST_N,
    SamplingSettings,
    choose_seed,
    chooser,
    is_sound,
    sample_among,
    sampler_chain,
)
from .settings import MAX_SCALE, AdapterChoice, EngineSettings, kv_types
from .vocabulary import Vocabulary

__all__ = [
    "ABORTED",
    "DEFAULT_CONTEXT",
    "KEPT_SEQUENCES",
    "MAX_ADAPTERS",
    "MAX_LAST_N",
    "MAX_SCALE",
    "AdapterChoice",
    "Asked",
    "Engine",
    "EngineSettings",
    "LargestFile",
    "Loading",
    "Profile",
    "ProgressCallback",
    "SamplingSettings",
    "Scales",
    "Unusable",
    "Vocabulary",
    "choose_seed",
    "chooser",
    "chosen_settings",
    "common_prefix",
    "defaults",
    "is_sound",
    "kv_types",
    "largest_file",
    "load_file",
    "load_vocabulary",
    "logged_reason",
    "restore",
    "sample_among",
    "sampler_chain",
    "save",
    "saved_tokens",
    "state_key",
]
