"""How far a tensor's values may be from the original's, by the type it is stored in.

Limits of quantized types are 1.5 times the largest that `python -m bench.verify_limits` finds with
ggml's quantizers on eight kinds of values (normal, heavy-tailed, with outliers, with runs of zeros,
…), but always such that zeros (a relative error of 1, a scale of 0) and other tensors' values (1.4,
0) fail. Quantizing by importances (an imatrix) may give up single values, so files made that way
have limits of their own, from importances that differ by orders of magnitude.
"""

import math
from typing import NamedTuple

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
