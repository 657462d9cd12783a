"""How far a copy is from the original values, summed up piece by piece, and how far it may be.

The relative error is the RMS of the differences over that of the original values; a block's is
the same within one block of the copy's type. The scale is <original, copy> / <original, original>,
1 for a faithful copy and 0 for one that has nothing to do with the original.

Limits of quantized types are 1.5 times the largest that `python -m bench.verify_limits` finds with
ggml's quantizers on eight kinds of values (normal, heavy-tailed, with outliers, with runs of zeros,
…), but always such that zeros (a relative error of 1, a scale of 0) and other tensors' values (1.4,
0) fail. Quantizing by importances (an imatrix) may give up single values, so files made that way
have limits of their own, from importances that differ by orders of magnitude.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamacli.gguf import TensorType

HALF_STEP = 2.0**-25  # half of the smallest step of F16, which blocks have their scales in


class Limits(NamedTuple):
    """relative, block: largest errors (see measure); scale: how far that may be from 1.

    floor is an RMS error that rounding a scale to F16 alone can make in any block: half the
    smallest step of F16 times the largest number that it is multiplied by.
    """

    relative: float
    block: float
    scale: float
    floor: float = 0.0

    def scale_of(self, values: int) -> float:
        """The same for that many values: errors independent of them move it by chance, too."""
        return self.scale + 4 * self.relative / math.sqrt(values)


EXACT = Limits(0.0, 0.0, 0.0)
ROUNDED = {
    "BF16": Limits(2.0**-8, 2.0**-8, 2.0**-8),  # 8 bits, which some tools cut instead of rounding
    "F16": Limits(2.0**-11, 2.0**-11, 2.0**-11, HALF_STEP),
}

# Type: relative, block and scale without importances, and with them; the largest number that a
# scale is multiplied by.
# fmt: off
QUANTIZED = {
    "Q8_0": ((0.017, 0.025, 0.0011), (0.017, 0.025, 0.0011), 127),
    "Q6_K": ((0.045, 0.065, 0.0011), (0.13, 0.68, 0.039), 4096),
    "Q5_K": ((0.076, 0.15, 0.0027), (0.14, 1.3, 0.034), 2016),
    "Q5_1": ((0.082, 0.18, 0.0035), (0.13, 1.5, 0.024), 32),
    "Q5_0": ((0.11, 0.18, 0.0092), (0.15, 0.77, 0.029), 16),
    "Q4_K": ((0.14, 0.19, 0.0053), (0.21, 1.4, 0.053), 1008),
    "Q4_1": ((0.17, 0.38, 0.027), (0.19, 1.5, 0.039), 16),
    "Q4_0": ((0.19, 0.35, 0.023), (0.23, 0.82, 0.064), 8),
    "IQ4_NL": ((0.16, 0.27, 0.016), (0.32, 1.5, 0.14), 127),
    "IQ4_XS": ((0.17, 0.22, 0.014), (0.28, 1.5, 0.11), 4064),
    "MXFP4": ((0.24, 0.4, 0.13), (0.24, 0.4, 0.13), 0),
    "Q3_K": ((0.25, 0.36, 0.019), (0.3, 0.71, 0.092), 128),
    "IQ3_S": ((0.63, 2.5, 0.063), (0.87, 2.5, 0.53), 465),
    "IQ3_XXS": ((0.69, 1.1, 0.069), (0.9, 1.5, 0.54), 961),
    "Q2_K": ((0.49, 1.4, 0.03), (0.53, 1.4, 0.18), 48),
    "IQ2_S": ((0.95, 1.4, 0.12), (0.95, 1.5, 0.7), 167),
    "IQ2_XS": ((0.95, 1.5, 0.68), (0.95, 1.5, 0.68), 167),
    "IQ2_XXS": ((0.95, 2, 0.7), (0.95, 2, 0.7), 167),
    "IQ1_M": ((0.95, 1.7, 0.7), (0.95, 1.7, 0.7), 17),
    "IQ1_S": ((0.95, 2, 0.66), (0.95, 2, 0.66), 17),
    "TQ1_0": ((0.95, 1.5, 0.44), (0.95, 1.5, 0.44), 1),
    "TQ2_0": ((0.95, 1.5, 0.44), (0.95, 1.5, 0.44), 1),
}
# fmt: on


def limits(kind: TensorType, source: str, importances: bool = False) -> Limits:
    """The limits of a type for values that the checkpoint stores as BF16, F16 or F32."""
    if kind.name in ("F32", source):
        return EXACT
    if kind.name in ROUNDED:
        return ROUNDED[kind.name]
    plain, weighted, largest = QUANTIZED[kind.name]
    return Limits(*(weighted if importances else plain), HALF_STEP * largest)


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
