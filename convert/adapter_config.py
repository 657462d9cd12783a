"""adapter_config.json of a LoRA adapter as PEFT writes it, typed and checked.

Ranks and scales by module are PEFT's own: tuners/lora/layer.py (update_layer) and utils/other.py
(get_pattern_key).
"""

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.errors import CheckpointError
from convert.small_files import boolean, read_json

CONFIG = "adapter_config.json"
MAX_RANK = 4096
MAX_PATTERNS = 4096
MAX_PATTERN = 256  # characters
MAX_REPEATS = 2  # in a pattern that is a regular expression: more could take without end
MAX_CHOICES = 8
MAX_MODEL = 1024  # characters of the base's name
REPEAT = re.compile(r"[*+?{]")
REPEATED_GROUP = re.compile(r"\)[*+?{]")

Patterns = tuple[tuple[re.Pattern[str], float], ...]  # a number by modules that one matches

# Set, these keys make something else of it than scale·B·A beside a matrix.
OTHER_KINDS = {
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "lora_bias": "LoRA with a bias of its own",
    "kasa_config": "KaSA",
    "arrow_config": "Arrow",
    "alora_invocation_tokens": "activated LoRA (aLoRA)",
    "invocation_string": "activated LoRA (aLoRA)",
    "layer_replication": "LoRA on replicated layers",
    "target_parameters": "LoRA on bare parameters",
    "trainable_token_indices": "an adapter with trainable tokens",
    "ensure_weight_tying": "LoRA on tied matrices as one",
}
# Set, these change nothing of what is computed at the end, or are read below.
KNOWN = {
    *("peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode", "revision"),
    *("base_model_name_or_path", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"),
    *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "bias"),
    *("layers_pattern", "lora_dropout", "init_lora_weights", "loftq_config", "eva_config"),
    *("corda_config", "lora_ga_config", "velora_config", "monteclora_config", "runtime_config"),
    *("megatron_config", "megatron_core", "qalora_group_size"),
    # PEFT leaves it aside for torch.nn.Linear and for embeddings, which are all that a Llama has.
    "fan_in_fan_out",
}
# The ways to begin training that leave the base's weights as they are.
INITS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class AdapterConfig:
    """base is what the adapter says it was trained on: a Hub id, or a folder somewhere."""

    base: str | None
    rank: int
    alpha: float
    rank_pattern: Patterns
    alpha_pattern: Patterns
    rslora: bool

    def rank_of(self, module: str) -> int:
        """The rank of a module, named as in the model, model.layers.0.self_attn.q_proj say."""
        return int(_of_pattern(self.rank_pattern, module, self.rank))

    def scale_of(self, module: str) -> float:
        """What B·A is multiplied by: alpha / r, with rsLoRA alpha / √r."""
        alpha, rank = _of_pattern(self.alpha_pattern, module, self.alpha), self.rank_of(module)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read and check it. Raises CheckpointError that names the key, or the kind of adapter."""
    raw = read_json(folder / CONFIG)
    kind = raw.get("peft_type")
    if not isinstance(kind, str) or kind.upper() != "LORA":
        raise _error(f"it is an adapter of the kind {kind!r}; LoRA adapters alone are read")
    for key, value in raw.items():
        if not value:
            continue
        if key in OTHER_KINDS:
            raise _error(f"it is {OTHER_KINDS[key]} ({key}); plain LoRA and rsLoRA are read")
        if key not in KNOWN:
            fault = f"{key} is {str(value)[:80]!r}, which may make another kind of adapter of it"
            raise _error(fault, "remove the key if it doesn't")
    begun = raw.get("init_lora_weights")
    if not isinstance(begun, bool | str | None) or begun not in INITS:
        fault = f"init_lora_weights is {begun!r}, which changes the base's own weights"
        raise _error(fault, "save the adapter as PEFT converts it to plain LoRA")
    base = raw.get("base_model_name_or_path")
    if base is not None and (not isinstance(base, str) or len(base) > MAX_MODEL):
        raise _error("base_model_name_or_path is not a model's name")
    return AdapterConfig(
        base=base or None,
        rank=int(_positive("r", raw.get("r"), whole=True)),
        alpha=_positive("lora_alpha", raw.get("lora_alpha")),
        rank_pattern=_pattern(raw, "rank_pattern", whole=True),
        alpha_pattern=_pattern(raw, "alpha_pattern"),
        rslora=boolean(raw, "use_rslora", CONFIG),
    )


def _error(fault: str, hint: str = "") -> CheckpointError:
    return CheckpointError(fault, file=CONFIG, hint=hint)


def _positive(key: str, value: Any, *, whole: bool = False) -> float:
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise _error(f"{key} is {value!r}, not a {'whole ' if whole else ''}number")
    most = MAX_RANK if whole else 1e6
    if not 0 < value <= most:
        raise _error(f"{key} is {value!r}, not a number above 0 and up to {most:g}")
    return value


def _pattern(raw: Mapping[str, Any], key: str, *, whole: bool = False) -> Patterns:
    """A number by modules: their names, or regular expressions for them, or for what of them stands
    behind a dot. Raises CheckpointError for what is none of these.
    """
    patterns = raw.get(key) or {}
    if not isinstance(patterns, dict) or len(patterns) > MAX_PATTERNS:
        raise _error(f"{key} is not an object of at most {MAX_PATTERNS} numbers by module")
    compiled = []
    for pattern, number in patterns.items():
        if not _is_bounded(pattern):
            raise _error(f"{key} has {pattern[:80]!r}, too intricate an expression to be matched")
        try:
            with warnings.catch_warnings(action="ignore"):
                of_end = re.compile(rf"(.*\.)?({pattern})$")
        except (re.error, RecursionError, OverflowError):
            raise _error(f"{key} has {pattern[:80]!r}, no regular expression") from None
        compiled.append((of_end, _positive(f"{key} of {pattern[:80]}", number, whole=whole)))
    return tuple(compiled)


def _is_bounded(pattern: str) -> bool:
    """Whether a stranger's expression is matched in bounded time, which Python's matching lacks."""
    return (
        len(pattern) <= MAX_PATTERN
        and len(REPEAT.findall(pattern)) <= MAX_REPEATS
        and pattern.count("|") <= MAX_CHOICES
        and not REPEATED_GROUP.search(pattern)
    )


def _of_pattern(patterns: Patterns, module: str, default: float) -> float:
    """The number of the first pattern that matches a module."""
    return next((number for pattern, number in patterns if pattern.match(module)), default)
