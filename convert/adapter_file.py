"""A LoRA adapter as a GGUF file, tensor by tensor as convert_lora_to_gguf.py of llama.cpp has it.

llama.cpp adds scale · alpha / rank · B·A to a matrix, with one alpha for the whole file. Where
modules have scales of their own (rsLoRA, alpha patterns), alpha is what most of them need, and the
others' B is multiplied by the rest.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType
from numpy.typing import NDArray

from convert.adapter import VOCABULARY, WEIGHTS, Adapter
from convert.config import LlamaConfig
from convert.errors import CheckpointError, QuantizationError
from convert.lora import Pair
from convert.safetensors import ITEM_SIZES
from convert.stored import read_rows
from convert.target import check_space, check_target, whole_file
from convert.tensors import TensorSpec, llama_tensors, permute_heads

# By the names that --quant takes: an adapter is small beside its model.
ADAPTER_TYPES = {
    "F32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "F16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "BF16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
}
MERGE = "merge it into its base: llamacli convert BASE --merge ADAPTER"


@dataclass(frozen=True)
class AdapterReport:
    """What was written: pairs of matrices with ranks from the least to the most."""

    path: Path
    pairs: int
    ranks: tuple[int, int]
    alpha: float
    nbytes: int


def write_adapter(
    adapter: Adapter,
    base: LlamaConfig,
    target: Path,
    quant: str = "F32",
    *,
    force: bool = False,
    notice: Callable[[str], None] | None = None,
) -> AdapterReport:
    """Write the adapter's GGUF file; it appears only whole.

    Raises CheckpointError where it holds what no GGUF adapter can, QuantizationError for a type
    that isn't one of ADAPTER_TYPES, TargetError.
    """
    kind, file_type = adapter_type(quant)
    check_target(target, force)
    check_holdable(adapter, base)
    if notice is not None:
        for source in sorted(adapter.copies):
            notice(f"{source} is taken to be the base's own, which the adapter has a copy of")
    specs = {spec.source: spec for spec in llama_tensors(base)}
    places = [(specs[source], pair) for source, pair in adapter.pairs.items()]
    alpha = file_alpha(list(adapter.pairs.values()))
    writer = gguf.GGUFWriter(None, "llama")
    _add_metadata(writer, adapter, alpha, file_type)
    item, nbytes = ITEM_SIZES[kind.name], 0
    for spec, pair in places:
        for letter, shape in (("a", a_shape(pair)), ("b", pair.b.shape)):
            size = shape[0] * shape[1] * item
            name = f"{spec.name}.lora_{letter}"
            writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=kind)
            nbytes += size
    check_space(target, nbytes)
    quiet = np.errstate(over="ignore", invalid="ignore")  # packed tells
    with whole_file(target, force) as part, closing(writer), quiet:
        writer.write_header_to_file(part)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for spec, pair in places:
            for values in gguf_matrices(pair, spec, alpha):
                writer.write_tensor_data(packed(values, kind, pair))
    ranks = [pair.rank for pair in adapter.pairs.values()]
    size = target.stat().st_size
    return AdapterReport(target, len(places), (min(ranks), max(ranks)), alpha, size)


def adapter_type(quant: str) -> tuple[GGMLQuantizationType, LlamaFileType]:
    """The tensors' type and the file's. Raises QuantizationError."""
    if quant.upper() not in ADAPTER_TYPES:
        names = ", ".join(ADAPTER_TYPES)
        raise QuantizationError(f"an adapter is written as {names}, not as {quant}")
    return ADAPTER_TYPES[quant.upper()]


def check_holdable(adapter: Adapter, base: LlamaConfig) -> None:
    """Refuse what a GGUF adapter can't hold: whole tensors, and a pair of a tied embedding."""
    for source, tensor in adapter.saved.items():
        resized = source in VOCABULARY and tensor.shape[0] != base.vocab_size
        if resized or source not in adapter.copies:
            what = "a resized vocabulary" if resized else f"a {source} of its own"
            fault = f"it has {what} (modules_to_save), which a GGUF adapter can't hold"
            raise CheckpointError(fault, file=WEIGHTS, hint=MERGE)
    if not adapter.pairs:
        raise CheckpointError("it adapts nothing", file=WEIGHTS)
    if base.tie_word_embeddings and (tied := [v for v in VOCABULARY if v in adapter.pairs]):
        fault = f"it adapts {tied[0]}, but the base has its embedding and output as one matrix"
        raise CheckpointError(f"{fault}, which llama.cpp can't adapt", file=WEIGHTS, hint=MERGE)


def file_alpha(pairs: list[Pair]) -> float:
    """The alpha of the file, float32: what most pairs' scale times rank is."""
    counts = Counter(float(np.float32(pair.scale * pair.rank)) for pair in pairs)
    return max(counts, key=lambda alpha: (counts[alpha], -alpha))


def a_shape(pair: Pair) -> tuple[int, ...]:
    """llama.cpp looks rows up in an embedding's A, so that it is transposed."""
    return pair.a.shape[::-1] if pair.of_embedding else pair.a.shape


def gguf_matrices(pair: Pair, spec: TensorSpec, alpha: float) -> Iterator[NDArray[np.float32]]:
    """A and B as the file has them: rows of B are reordered as those of q_proj and k_proj are."""
    a = read_rows(pair.a)
    yield np.ascontiguousarray(a.T) if pair.of_embedding else a
    b = read_rows(pair.b)
    if spec.head_dim is not None:
        b = permute_heads(b, spec.head_dim).astype(np.float32, copy=False)
    rest = np.float32(pair.scale * pair.rank / alpha)
    yield b if abs(float(rest) - 1.0) < 1e-6 else b * rest


def packed(
    values: NDArray[np.float32], kind: GGMLQuantizationType, pair: Pair
) -> NDArray[np.generic]:
    """The values in the file's type. Raises CheckpointError where that holds no number for one."""
    if not np.isfinite(values.astype(np.float16) if kind.name == "F16" else values).all():
        fault = f"the pair of {pair.module} has values that are NaN, infinite or beyond {kind.name}"
        raise CheckpointError(fault, file=WEIGHTS)
    result: NDArray[np.generic] = gguf.quantize(values, kind)
    return result


def _add_metadata(
    writer: gguf.GGUFWriter, adapter: Adapter, alpha: float, file_type: LlamaFileType
) -> None:
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_name(adapter.name)
    if adapter.config.base:
        with suppress(ValueError):
            writer.add_base_model_count(1)
            writer.add_base_model_name(0, adapter.config.base)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
