"""What llama.cpp takes for granted of a LoRA adapter, and would abort on or misread, checked."""

import math
import re
from dataclasses import dataclass

from llamacli.gguf.contents import GGUFFile, TensorInfo

ALPHA = "adapter.lora.alpha"
FLOAT32_PAIR = 8 + len(ALPHA) + 4 + 4  # bytes of the key, with its length and type, and a float32
TYPES = {"F32", "F16", "BF16", "Q8_0"}  # those that llama.cpp's own converter writes
# The matrices that llama.cpp's graph of a Llama model multiplies by, and adds a product beside.
MATRIX = re.compile(
    r"(?:blk\.\d+\.(?:attn_(?:q|k|v|output)|ffn_(?:gate|up|down))|output|token_embd)\.weight"
)
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class AdapterShape:
    """What an adapter adds: to so many matrices, with ranks from the least to the most."""

    pairs: int
    ranks: tuple[int, int]
    alpha: float


def check_adapter(file: GGUFFile, base: GGUFFile) -> None:
    """Check an adapter against its base, which check_llama has passed.

    Raises InvalidModelError that names the adapter's file and the fault.
    """
    for key, wanted in (
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.architecture", "llama"),
    ):
        value = file.metadata.get(key)
        if value != wanted:
            is_model = key == "general.type" and value in (None, "model")
            hint = "" if not is_model else ": it is a model, perhaps; those are given with -m"
            file.fail(f"{key} is {value!r}, not {wanted!r}{hint}")
    if invoked := [key for key in file.metadata if key.startswith("adapter.alora.")]:
        file.fail(f"it has {invoked[0]}: activated LoRA (aLoRA) isn't run here, plain LoRA is")
    _check_alpha(file)
    tensors = {tensor.name: tensor for tensor in base.tensors}
    pairs: dict[str, dict[str, TensorInfo]] = {}
    for tensor in file.tensors:
        name, _, side = tensor.name.rpartition(".lora_")
        if side not in ("a", "b") or not name:
            if name:
                file.fail(f"{tensor.name} is no part of a pair, .lora_a or .lora_b")
            file.fail(f"{tensor.name} is a whole tensor, which llama.cpp leaves out of an adapter")
        if name not in tensors or not MATRIX.fullmatch(name):
            file.fail(f"it adapts {name}, which {base.path.name} doesn't have; another base's?")
        if tensor.type.name not in TYPES:
            file.fail(f"{tensor.name} is {tensor.type.name}; {', '.join(sorted(TYPES))} are run")
        pairs.setdefault(name, {})[side] = tensor
    if not pairs:
        file.fail("it has no tensors")
    for name, sides in pairs.items():
        _check_pair(file, base, tensors[name], sides)
    if EMBEDDING in pairs and OUTPUT not in tensors:
        file.fail(f"it adapts {EMBEDDING}, which is the output of {base.path.name} too")


def is_adapter(file: GGUFFile) -> bool:
    return file.metadata.get("general.type") == "adapter"


def base_name(file: GGUFFile) -> str | None:
    """The model that an adapter is for, as it says itself."""
    name = file.metadata.get("general.base_model.0.name")
    return name if isinstance(name, str) and name else None


def stated_shape(file: GGUFFile) -> AdapterShape:
    """What an adapter says that it adds, which only check_adapter holds against its base."""
    alpha = file.metadata.get(ALPHA)
    ranks = [one.shape[0] for one in file.tensors if one.name.endswith(".lora_b")] or [0]
    pairs = sum(one.name.endswith(".lora_a") for one in file.tensors)
    known = alpha if isinstance(alpha, float) and math.isfinite(alpha) else 0.0
    return AdapterShape(pairs, (min(ranks), max(ranks)), known)


def _check_alpha(file: GGUFFile) -> None:
    """llama.cpp takes the key's type for granted; without the key it takes the rank for alpha."""
    if ALPHA not in file.metadata:
        return
    value = file.metadata[ALPHA]
    span = file.spans[ALPHA]  # of a key and its value
    if not isinstance(value, float) or span.stop - span.start != FLOAT32_PAIR:
        file.fail(f"{ALPHA} is {value!r}, not a float32")
    if not math.isfinite(value):
        file.fail(f"{ALPHA} is {value}, not a number")


def _check_pair(
    file: GGUFFile, base: GGUFFile, matrix: TensorInfo, sides: dict[str, TensorInfo]
) -> None:
    """Shapes are in GGUF's order, a row's length first."""
    for side in "ab":
        if side not in sides:
            file.fail(f"{matrix.name}.lora_{side} is missing: a pair has both")
    a, b = sides["a"], sides["b"]
    columns, rows = matrix.shape
    rank = b.shape[0]
    # Of an embedding llama.cpp looks rows of A up, and multiplies by B as it is.
    wanted = ((rank, rows), (rank, columns))
    if matrix.name != EMBEDDING:
        wanted = ((columns, rank), (rank, rows))
    for tensor, expected in zip((a, b), wanted, strict=True):
        if tensor.shape != expected:
            file.fail(
                f"{tensor.name} has the shape {list(tensor.shape)}, expected {list(expected)}; "
                f"is it the adapter of another model than {base.path.name}?"
            )
