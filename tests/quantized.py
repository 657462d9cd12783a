"""llama.cpp's own quantizer, to compare with: a file that it makes, or types it would choose."""

import ctypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from convert.quantization import TYPES, Quantization
from llamacli.gguf import TensorInfo, read_gguf

Importances = Mapping[str, NDArray[np.float32]]


@llama_cpp.llama_log_callback
def silent(level: int, text: bytes, data: object) -> None:
    """llama.cpp's log is not what the tests are about."""


def quantize_by_llama_cpp(
    source: Path,
    target: Path,
    mixture: Quantization,
    importances: Importances | None = None,
    overrides: Sequence[str] = (),
) -> int:
    """Make target; llama_model_quantize's status, 0 where it did."""
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    parameters, held = _parameters(mixture, importances, overrides)
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(parameters)
    )
    del held
    return status


def types_by_llama_cpp(
    source: Path,
    mixture: Quantization,
    importances: Importances | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, str]:
    """The types of matrices that llama.cpp's dry run logs, with no data read."""
    lines: list[str] = []

    @llama_cpp.llama_log_callback
    def collect(level: int, text: bytes, data: object) -> None:
        lines.append(text.decode())

    parameters, held = _parameters(mixture, importances, overrides)
    parameters.dry_run = True
    llama_cpp.llama_log_set(collect, ctypes.c_void_p(0))
    status = llama_cpp.llama_model_quantize(str(source).encode(), b"", ctypes.byref(parameters))
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    del held
    assert status == 0
    matches = re.findall(r"(blk\S+|\w+\.weight) .*MiB \((\w+)\)", "".join(lines))
    return {name: kind.upper() for name, kind in matches}


def assert_same_tensors(ours: Path, theirs: Path) -> None:
    read, expected = (
        {tensor.name: tensor for tensor in read_gguf(path).tensors} for path in (ours, theirs)
    )
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert read[name].type == tensor.type and read[name].shape == tensor.shape, name
        assert np.array_equal(_bytes(ours, read[name]), _bytes(theirs, tensor)), name


def _bytes(path: Path, tensor: TensorInfo) -> NDArray[np.uint8]:
    return np.memmap(path, np.uint8, "r", tensor.offset, (tensor.nbytes,))


def _parameters(
    mixture: Quantization, importances: Importances | None, overrides: Sequence[str]
) -> tuple[llama_cpp.llama_model_quantize_params, object]:
    """The parameters, and what must live as long as they do."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = int(mixture.file_type)
    if mixture.output is not None:
        parameters.output_tensor_type = int(mixture.output)
    if mixture.embedding is not None:
        parameters.token_embedding_type = int(mixture.embedding)
    data = (llama_cpp.llama_model_imatrix_data * (len(importances or {}) + 1))()
    for slot, (name, values) in zip(data, (importances or {}).items(), strict=False):
        slot.name = name.encode()
        slot.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        slot.size = values.size
    if importances is not None:
        parameters.imatrix = data
    patterns = (llama_cpp.llama_model_tensor_override * (len(overrides) + 1))()
    for slot, text in zip(patterns, overrides, strict=False):
        pattern, _, kind = text.rpartition("=")
        slot.pattern, slot.type = pattern.encode(), int(TYPES[kind])
    if overrides:
        parameters.tt_overrides = patterns
    return parameters, (data, patterns, importances)
