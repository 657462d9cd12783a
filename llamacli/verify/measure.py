"""How far a copy is from the original values, summed up piece by piece.

The relative error is the RMS of the differences over that of the original values; a block's is
the same within one block of the copy's type. The scale is <original, copy> / <original, original>,
1 for a faithful copy and 0 for one that has nothing to do with the original.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PLAIN_BLOCK = 256  # values that are taken together in a type without blocks


@dataclass(frozen=True)
class Sums:
    """Sums over values; block indices count from the tensor's start. Adding two keeps the order.

    original is the sum of squares, error that of the differences, product that of original times
    difference. bad is how many blocks are beyond what was allowed, first_bad the first of them.
    """

    values: int = 0
    original: float = 0.0
    error: float = 0.0
    product: float = 0.0
    blocks: int = 0
    worst: float = 0.0
    bad: int = 0
    first_bad: int = -1

    def __add__(self, other: "Sums") -> "Sums":
        first = self.first_bad
        if first < 0 <= other.first_bad:
            first = self.blocks + other.first_bad
        return Sums(
            self.values + other.values,
            self.original + other.original,
            self.error + other.error,
            self.product + other.product,
            self.blocks + other.blocks,
            max(self.worst, other.worst),
            self.bad + other.bad,
            first,
        )

    def relative(self, floor: float = 0.0) -> float:
        """The relative error beyond floor, an RMS that is allowed whatever the values are."""
        if not math.isfinite(self.error):
            return math.inf
        excess = math.sqrt(self.error / max(self.values, 1)) - floor
        if excess <= 0:
            return 0.0
        return excess / math.sqrt(self.original / self.values) if self.original else math.inf

    @property
    def scale(self) -> float:
        return 1 + self.product / self.original if self.original else 1.0


def measure(
    original: NDArray[np.float32],
    copy: NDArray[np.float32],
    block: int,
    *,
    floor: float = 0.0,
    allowed: float = math.inf,
) -> Sums:
    """The sums over two arrays of whole rows, float32 of the same shape (rows, columns).

    block is the type's block size, by which columns can be divided, or 1. A block's error counts
    beyond floor, as in Sums.relative; allowed is the share beyond which it is bad.
    """
    if block == 1:
        block = math.gcd(PLAIN_BLOCK, original.shape[-1])
    values = original.reshape(-1, block)
    with np.errstate(all="ignore"):
        difference = copy.reshape(-1, block) - values
        squares = np.einsum("ij,ij->i", values, values)
        errors = np.einsum("ij,ij->i", difference, difference)
        excess = np.sqrt(errors / block) - floor
        shares = np.where(excess > 0, excess / np.sqrt(squares / block), 0)
        shares[~np.isfinite(errors)] = np.inf
        worst, bad = float(shares.max(initial=0)), shares > allowed
        product = float(np.einsum("ij,ij->i", values, difference).sum(dtype=np.float64))
        error = float(errors.sum(dtype=np.float64))
    count = int(bad.sum())
    return Sums(
        values.size,
        float(squares.sum(dtype=np.float64)),
        error if math.isfinite(error) else math.inf,
        product,
        len(values),
        worst,
        count,
        int(bad.argmax()) if count else -1,
    )
