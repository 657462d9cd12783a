"""All that precedes the weights in a GGUF file: metadata, vocabulary, and the tensors' places.

Each tensor's type and place are planned before a weight is read.

The gguf package collects the keys; its writer packs a vocabulary's half a million strings one by
one, which takes longer than quantizing a small model, so they are packed here, all at once.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from convert.checkpoint import Checkpoint
from convert.config import LlamaConfig
from convert.errors import QuantizationError
from convert.metadata import add_metadata
from convert.quantization import Quantization, tensor_nbytes, tensor_type
from convert.recipe import COLUMNS_KEY, KEY, recipe_text
from convert.target import unwritable
from convert.tensors import ROPE_FACTORS, TensorSpec, frequency_factors, llama_tensors

ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT
SCALARS = gguf.GGUFReader.gguf_scalar_to_np


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the target: its type and its bytes' place, counted from the data's start."""

    spec: TensorSpec
    type: GGMLQuantizationType
    offset: int
    nbytes: int


def plan_tensors(config: LlamaConfig, quantization: Quantization) -> tuple[PlannedTensor, ...]:
    """Every tensor's type and place; rope_freqs.weight, where there is one, comes last.

    Raises QuantizationError where a recipe isn't of this model, or a pattern is in no matrix' name.
    """
    planned, offset = [], 0
    specs = [*llama_tensors(config)]
    matrices = {spec.name for spec in specs if len(spec.shape) == 2}
    if odd := (quantization.recipe or {}).keys() - matrices:
        raise QuantizationError(
            f"the recipe is of another model: it has {min(odd)}, this one hasn't"
        )
    for one in quantization.overrides:
        if not any(map(one.pattern.search, matrices)):
            raise QuantizationError(
                f"{one.pattern.pattern!r} is in the name of no matrix; they are called "
                "blk.0.ffn_down.weight and the like, see `llamacli show --tensors`"
            )
    factors = frequency_factors(config)
    if factors is not None:
        specs.append(TensorSpec(ROPE_FACTORS, ROPE_FACTORS, factors.shape))
    for spec in specs:
        kind = tensor_type(quantization, spec, config)
        nbytes = tensor_nbytes(kind, spec.parameters)
        planned.append(PlannedTensor(spec, kind, offset, nbytes))
        offset += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return tuple(planned)


def header_bytes(
    checkpoint: Checkpoint, quantization: Quantization, tensors: Sequence[PlannedTensor]
) -> bytes:
    """The bytes before the tensors' data, which starts where they end."""
    writer = gguf.GGUFWriter(None, "llama")
    add_metadata(writer, checkpoint, quantization)
    if quantization.recipe is not None:
        matrices = (tensor for tensor in tensors if len(tensor.spec.shape) == 2)
        types = ((tensor.spec.name, tensor.type) for tensor in matrices)
        writer.add_string(KEY, recipe_text(types))
    if quantization.columns is not None:
        writer.add_array(COLUMNS_KEY, quantization.columns)
    keys = writer.kv_data[0]
    counts = struct.pack("<IIQQ", gguf.GGUF_MAGIC, gguf.GGUF_VERSION, len(tensors), len(keys))
    entries = (
        _string(key) + struct.pack("<I", value.type) + _value(value.value, value.type)
        for key, value in keys.items()
    )
    header = b"".join((counts, *entries, *map(_place, tensors)))
    return header.ljust(-(-len(header) // ALIGNMENT) * ALIGNMENT, b"\0")


def write_header(
    path: Path,
    checkpoint: Checkpoint,
    quantization: Quantization,
    tensors: Sequence[PlannedTensor],
) -> int:
    """The same as a file, a vocabulary alone where there are no tensors; returns its size.

    Raises TargetError.
    """
    header = header_bytes(checkpoint, quantization, tensors)
    try:
        return path.write_bytes(header)
    except OSError as error:
        raise unwritable(path, error) from error


def _value(value: Any, kind: GGUFValueType) -> bytes:
    if kind == GGUFValueType.STRING:
        return _string(value)
    if kind == GGUFValueType.ARRAY:
        return _array(value)
    return np.array(value).astype(SCALARS[kind]).tobytes()


def _array(values: Sequence[Any]) -> bytes:
    if isinstance(values[0], str):
        kind, packed = GGUFValueType.STRING, b"".join(_strings(values))
    elif isinstance(values, bytes):
        kind, packed = GGUFValueType.UINT8, values
    else:
        kind = GGUFValueType.get_type(values[0])
        packed = np.array(values).astype(SCALARS[kind]).tobytes()
    return struct.pack("<IQ", kind, len(values)) + packed


def _strings(texts: Sequence[str]) -> Iterator[bytes]:
    """Each text after its length; there are few lengths, so that each is packed once."""
    encoded = list(map(str.encode, texts))
    lengths = list(map(len, encoded))
    packed = {length: struct.pack("<Q", length) for length in set(lengths)}
    return chain.from_iterable(zip(map(packed.__getitem__, lengths), encoded, strict=True))


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _place(tensor: PlannedTensor) -> bytes:
    """Name, dimensions in GGUF's order, type and offset of a tensor."""
    shape = tensor.spec.shape[::-1]
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    place = struct.pack("<IQ", tensor.type, tensor.offset)
    return _string(tensor.spec.name) + dimensions + place
