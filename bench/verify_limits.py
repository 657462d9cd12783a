"""What each quantization type gives on values of many kinds: the source of verify's limits.

    python -m bench.verify_limits [--blocks 4096] [--types Q4_K …]

A line a type, one without importances and one with them: the largest relative error, worst block
and deviation of the scale from 1, each with the kind of values that it is from.
"""

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from convert.kernels import dequantize, quantize
from convert.kernels.comparison import samples
from llamacli.gguf.contents import TENSOR_TYPES
from llamacli.verify.measure import measure

# Values as weights are: no exact constants, no ranges that F16 scales can't express.
KINDS = ("normal", "bfloat16", "heavy-tailed", "uniform", "outliers", "uneven", "zeros", "ties")
COLUMNS = 1024
NEEDS_IMPORTANCES = ("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M")
SPREADS = (1.5, 3.0)  # of the importances: the deviation of their logarithms


def measures(
    kind: GGMLQuantizationType, blocks: int, spreads: Sequence[float | None]
) -> Iterator[tuple[str, float, float, float]]:
    """Name of the values, relative error, worst block, deviation of the scale."""
    rng = np.random.default_rng(1)
    for spread in spreads:
        for name, sample in samples(blocks):
            if name not in KINDS:
                continue
            values = np.ascontiguousarray(sample, np.float32).reshape(-1, COLUMNS)
            weights = None
            if spread is not None:
                weights = np.exp(rng.standard_normal(COLUMNS) * spread).astype(np.float32)
            copy = dequantize(kind, quantize(kind, values, weights)).reshape(values.shape)
            errors = measure(values, copy, GGML_QUANT_SIZES[kind][0])
            yield name, errors.relative(), errors.worst, abs(errors.scale - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--blocks", type=int, default=1024)
    parser.add_argument("--types", nargs="*")
    arguments = parser.parse_args()
    print("type         relative            block               scale")
    for kind in TENSOR_TYPES.values():
        if kind.block == 1 or (arguments.types and kind.name not in arguments.types):
            continue
        for mark, spreads in (("", (None,)), ("+", SPREADS)):
            if not mark and kind.name in NEEDS_IMPORTANCES:
                continue
            names, *columns = zip(
                *measures(GGMLQuantizationType[kind.name], arguments.blocks, spreads), strict=True
            )
            worst = [f"{max(c):.4f} {names[c.index(max(c))]:12}" for c in columns]
            print(f"{kind.name + mark:8} {' '.join(worst)}", flush=True)


if __name__ == "__main__":
    main()
