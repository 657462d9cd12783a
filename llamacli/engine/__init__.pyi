from .asked import Asked, Profile, defaults, settle
from .engine import ABORTED, Engine, Progress, common_prefix
from .fit import DEFAULT_CONTEXT
from .kv_state import Unusable, file_identity, restore, save, saved_tokens, state_key
from .loading import because, deferred_signals, load_vocabulary
from .sampling import SamplingSettings, choose_seed, is_sound, sampler_chain
from .settings import EngineSettings
from .vocabulary import Vocabulary

__all__ = [
    "ABORTED",
    "DEFAULT_CONTEXT",
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
    "common_prefix",
    "defaults",
    "deferred_signals",
    "file_identity",
    "is_sound",
    "load_vocabulary",
    "restore",
    "sampler_chain",
    "save",
    "saved_tokens",
    "settle",
    "state_key",
]
