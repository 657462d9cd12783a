from .asked import Asked, Profile, defaults, settle
from .context import KEPT_SEQUENCES
from .engine import ABORTED, Engine, Progress, common_prefix
from .fit import DEFAULT_CONTEXT
from .kv_state import Unusable, restore, save, saved_tokens, state_key
from .loading import because, load_vocabulary
from .sampling import SamplingSettings, choose_seed, chooser, is_sound, sampler_chain
from .settings import EngineSettings
from .vocabulary import Vocabulary

__all__ = [
    "ABORTED",
    "DEFAULT_CONTEXT",
    "KEPT_SEQUENCES",
    "Asked",
    "Engine",
    "EngineSettings",
    "Profile",
    "Progress",
    "SamplingSettings",
    "Unusable",
    "Vocabulary",
    "because",
    "choose_seed",
    "chooser",
    "common_prefix",
    "defaults",
    "is_sound",
    "load_vocabulary",
    "restore",
    "sampler_chain",
    "save",
    "saved_tokens",
    "settle",
    "state_key",
]
