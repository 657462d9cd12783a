"""The size of every quantization of Llama 3's 1B, 8B and 70B, from the plan of the file alone.

    python -m bench.sizes

Writes the tables of docs/quantization.md and README.md; a test holds them to it. Sizes are those
of the tensors; what precedes them, the vocabulary above all, adds 8 MB.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.report import DOCS, with_figures
from convert import QUANTIZATIONS
from convert.config import LlamaConfig
from convert.header import plan_tensors
from convert.quantization import Origin, requires_importance
from tests.standins.checkpoint import shape_config

SHAPES = ("1b", "8b", "70b")
NAME = "sizes"
PAGES = {DOCS / "quantization.md": "long", DOCS.parent / "README.md": "short"}


def nbytes(name: str, config: LlamaConfig) -> int:
    """Of all tensors of a model in that quantization."""
    quantization = QUANTIZATIONS[name]
    if requires_importance(quantization, "blk.0.attn_q.weight", quantization.base):
        quantization = replace(quantization, importance=Origin("", "", 0, 0))
    return sum(tensor.nbytes for tensor in plan_tensors(config, quantization))


def sizes() -> dict[str, tuple[dict[str, int], float]]:
    """By quantization: each shape's bytes, and the bits a weight of 8B."""
    configs = {shape: LlamaConfig.from_dict(shape_config(shape)) for shape in SHAPES}
    weights = sum(
        tensor.spec.parameters for tensor in plan_tensors(configs["8b"], QUANTIZATIONS["F16"])
    )
    every = {}
    for name in QUANTIZATIONS:
        by_shape = {shape: nbytes(name, config) for shape, config in configs.items()}
        every[name] = by_shape, 8 * by_shape["8b"] / weights
    return every


def long() -> Iterator[str]:
    yield "| type | " + " | ".join(shape.upper() for shape in SHAPES) + " | bits a weight (8B) |"
    yield "|---|" + "--:|" * (len(SHAPES) + 1)
    for name, (by_shape, bits) in sizes().items():
        cells = " | ".join(f"{size / 1e9:.2f} GB" for size in by_shape.values())
        yield f"| {name} | {cells} | {bits:.2f} |"


def short() -> Iterator[str]:
    """8B and 70B, two types a row."""
    yield "| type | 8B | 70B | type | 8B | 70B |"
    yield "|---|--:|--:|---|--:|--:|"
    cells = [
        f"{name} | {by_shape['8b'] / 1e9:.1f} GB | {by_shape['70b'] / 1e9:.1f} GB"
        for name, (by_shape, _) in sizes().items()
    ]
    half = -(-len(cells) // 2)
    for number, left in enumerate(cells[:half]):
        right = cells[half + number] if half + number < len(cells) else " | | "
        yield f"| {left} | {right} |"


def page(path: Path) -> str:
    """The page as it should be."""
    lines = {"long": long, "short": short}[PAGES[path]]()
    return with_figures(path.read_text(encoding="utf-8"), "\n".join(lines), NAME)


def main() -> None:
    for path in PAGES:
        path.write_text(page(path), encoding="utf-8")


if __name__ == "__main__":
    main()
