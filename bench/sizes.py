"""The size of every quantization of Llama 3's 1B, 8B and 70B, from the plan of the file alone.

python -m bench.sizes
"""

from dataclasses import replace

from convert import QUANTIZATIONS
from convert.config import LlamaConfig
from convert.plan import plan
from convert.quantization import Origin, requires_importance
from tests.standins.checkpoint import shape_config

SHAPES = ("1b", "8b", "70b")


def main() -> None:
    print("| type | " + " | ".join(shape.upper() for shape in SHAPES) + " | bits a weight (8B) |")
    print("|---|" + "--:|" * (len(SHAPES) + 1))
    configs = [LlamaConfig.from_dict(shape_config(shape)) for shape in SHAPES]
    for name, quantization in QUANTIZATIONS.items():
        if requires_importance(quantization, "blk.0.attn_q.weight", quantization.base):
            quantization = replace(quantization, importance=Origin("", "", 0, 0))
        plans = [plan(config, quantization) for config in configs]
        sizes = [sum(tensor.nbytes for tensor in one) for one in plans]
        weights = sum(tensor.spec.parameters for tensor in plans[1])
        cells = " | ".join(f"{size / 1e9:.2f} GB" for size in sizes)
        print(f"| {name} | {cells} | {8 * sizes[1] / weights:.2f} |")


if __name__ == "__main__":
    main()
