"""The sums of squared activations before each weight matrix, collected while a text is evaluated.

Source of the method: tools/imatrix/imatrix.cpp of llama.cpp (IMatrixCollector). The evaluation
callback shows nodes of the graph, in the layout of struct ggml_tensor in ggml.h, which is held
against ggml's own accessors once.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert import Entry, ImportanceMatrix, deferred_signals
from llamacli.engine import Engine
from llamacli.errors import InvalidModelError, LlamacliError
from llamacli.machine import ggml_function
from llamacli.verify import all_logits

F32 = 0
LEAST_ROWS = 16  # fewer activations aren't a prompt's; llama-imatrix leaves them out as well


class _Tensor(ctypes.Structure):
    """struct ggml_tensor, but for what comes after its name."""


_Tensor._fields_ = (
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.POINTER(_Tensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
)


@cache
def _multiplies(op: int) -> bool:
    """Whether this number of an operation is a matrix's multiplication, by ggml's own names."""
    name = ggml_function("ggml_op_name", ctypes.c_char_p, ctypes.c_int)
    return bool(name(op) == b"MUL_MAT")


def weights_of(pointer: int) -> str:
    """The name of the weights that a node multiplies activations with; empty for other nodes."""
    if not _multiplies(ctypes.c_int.from_address(pointer + _Tensor.op.offset).value):
        return ""
    node = _Tensor.from_address(pointer)
    weights, activations = node.src[0].contents, node.src[1].contents
    if activations.ne[1] < LEAST_ROWS or activations.type != F32:
        return ""
    # A copy on another device is CUDA0#blk.0.attn_k.weight#0.
    name: bytes = weights.name
    return name.split(b"#")[1 if b"#" in name else 0].decode(errors="replace")


def activations_at(pointer: int) -> int:
    """The address of the tensor of activations that a multiplication takes."""
    return ctypes.addressof(_Tensor.from_address(pointer).src[1].contents)


def read_activations(address: int) -> NDArray[np.float32]:
    """The values of a float32 tensor on any device, of shape (rows, columns), a copy."""
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    nbytes = ggml_function("ggml_nbytes", size, pointer)(address)
    raw = np.empty(nbytes // 4, np.float32)
    get = ggml_function("ggml_backend_tensor_get", None, pointer, pointer, size, size)
    get(address, raw.ctypes.data, 0, nbytes)
    tensor = _Tensor.from_address(address)
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    values = np.lib.stride_tricks.as_strided(raw, shape, strides, writeable=False)
    return values.reshape(-1, shape[-1])


def check_layout(pointer: int) -> None:
    """Raises LlamacliError where this llama.cpp lays its tensors out otherwise."""
    node = _Tensor.from_address(pointer)
    own = {"ggml_get_name": pointer + _Tensor.name.offset, "ggml_get_data": node.data}
    address = ctypes.c_void_p
    if any(ggml_function(get, address, address)(pointer) != at for get, at in own.items()):
        raise LlamacliError(
            "this llama.cpp lays its tensors out otherwise; activations can't be read"
        )


PREFIX = "blk."  # the output matrix isn't measured: it is quantized with care anyway


class Activations:
    """Sums by the weights' names: float64 of shape (columns,), and how many activations.

    observer is made for one engine of so many blocks; beyond the last one's last matrix nothing is
    computed, as nothing of it counts.
    """

    def __init__(self, blocks: int) -> None:
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, int] = {}
        self._last = f"blk.{blocks - 1}.ffn_down.weight"
        self._signals: list[int] = []
        self._error: BaseException | None = None
        self._checked = False
        self._latest: tuple[int, int, NDArray[np.float32]] | None = None

    def observer(self, library: Any) -> Any:
        """llama.cpp's cb_eval. Errors can't leave it: they stop the evaluation and are kept."""

        def observe(node: int, ask: bool, _: Any) -> bool:
            try:
                return self._asked(node) if ask else self._computed(node)
            except BaseException as error:
                self._error = self._error or error
                return False

        return library.ggml_backend_sched_eval_callback(observe)

    def evaluate(self, engine: Engine, tokens: Sequence[int]) -> None:
        """Add the activations of tokens, seen from an empty context on.

        Raises KeyboardInterrupt and the like within a layer's time, with sums then unusable, and
        InvalidModelError where activations aren't finite.
        """
        self._signals.clear()
        with deferred_signals(self._signals):
            for _ in all_logits(engine, tokens):
                self._latest = None  # the next step may have other values at the same addresses
                if self._error is not None or self._signals:
                    break
        if self._error is not None:
            raise self._error

    def matrix(self, datasets: Sequence[str], chunks: int, chunk_size: int) -> ImportanceMatrix:
        entries = {
            name: Entry(sums.astype(np.float32), float(self.counts[name]))
            for name, sums in self.sums.items()
        }
        return ImportanceMatrix(entries, tuple(datasets), chunks, chunk_size)

    def take(self, matrix: ImportanceMatrix) -> None:
        """Go on from what was measured before."""
        self.sums = {n: entry.sums.astype(np.float64) for n, entry in matrix.entries.items()}
        self.counts = {name: round(entry.count) for name, entry in matrix.entries.items()}

    def _asked(self, node: int) -> bool:
        if not self._checked:
            check_layout(node)
            self._checked = True
        return weights_of(node).startswith(PREFIX) or bool(self._signals)

    def _computed(self, node: int) -> bool:
        """Add a node's activations; False where nothing more need be computed."""
        if self._error is not None or self._signals:
            return False
        name, address = weights_of(node), activations_at(node)
        if self._latest is None or self._latest[0] != address:
            values = read_activations(address)
            sums = np.einsum("ij,ij->j", values, values)
            if not np.isfinite(sums).all():
                raise InvalidModelError(f"the activations before {name} aren't finite")
            self._latest = address, len(values), sums
        _, rows, sums = self._latest
        if name not in self.sums:
            self.sums[name], self.counts[name] = np.zeros(sums.size), 0
        self.sums[name] += sums
        self.counts[name] += rows
        return name != self._last
