"""The sums of squared activations before each weight matrix, collected while a text is evaluated.

Source of the method: tools/imatrix/imatrix.cpp of llama.cpp (IMatrixCollector).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert import Entry, ImportanceMatrix, deferred_signals
from llamacli.engine import Engine
from llamacli.errors import InvalidModelError
from llamacli.quality.nodes import activations_at, check_layout, read_activations, weights_of
from llamacli.verify import all_logits

PREFIX = "blk."  # the output matrix isn't measured: it is quantized with care anyway


class Activations:
    """Sums by the weights' names: float64 of shape (columns,), and how many activations.

    observer is made for one engine, whose last block's last matrix is `last`: beyond it nothing is
    computed, as nothing of it counts.
    """

    def __init__(self) -> None:
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, int] = {}
        self.last = ""
        self.stopped: Callable[[], bool] = lambda: False
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
        signals: list[int] = []
        self.stopped = lambda: bool(signals)
        with deferred_signals(signals):
            for _ in all_logits(engine, tokens):
                self._latest = None  # the next step may have other values at the same addresses
                if self._error is not None or signals:
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
        return weights_of(node).startswith(PREFIX) or self.stopped()

    def _computed(self, node: int) -> bool:
        """Add a node's activations; False where nothing more need be computed."""
        if self._error is not None or self.stopped():
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
        return name != self.last
