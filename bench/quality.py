"""What each quantization costs the demo, a trained model, without an importance matrix and with.

    python -m bench.quality [--calibration FILE] [--windows 8] [--plot FILE.png]

Every mixture of the built-in demo is held against its F32 file on conversations that it was never
trained on. The matrix is measured on conversations of its training's kind, or on a text of one's
own; `--calibration ships` takes the text that llamacli imatrix uses by default. The table is
Markdown, for docs/quantization.md. Nothing in it hangs on the machine's speed.
"""

import argparse
import random
import tempfile
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from convert import QUANTIZATIONS, ImportanceError, ImportanceMatrix, convert
from demo.corpus import dialogues
from demo.held_out import conversations
from llamacli.prompt import Text
from llamacli.quality import Quality, compare, measure_importance, plot

WORDS_A_WINDOW = 400  # about; a window has 512 tokens


def joined(turns: Iterable[Iterable[dict[str, str]]], words: int) -> str:
    """Conversations as text, at least so many words of it."""
    parts: list[str] = []
    held = 0
    for conversation in turns:
        parts += [message["content"] for message in conversation]
        held = sum(len(part.split()) for part in parts)
        if held >= words:
            break
    return "\n\n".join(parts)


def calibration(given: str | None) -> list[Text] | None:
    if given == "ships":
        return None
    if given is not None:
        return [Text(given, Path(given).read_text(encoding="utf-8"))]
    return [Text("corpus", joined(dialogues(random.Random(5)), 40 * WORDS_A_WINDOW))]


def made(folder: Path, checkpoint: Path, matrix: ImportanceMatrix | None) -> list[Path]:
    """A file of each mixture that can be made; its name says by a + that it has a matrix."""
    paths = []
    for name in QUANTIZATIONS:
        path = folder / f"{name}{'' if matrix is None else '+'}.gguf"
        try:
            convert(checkpoint, path, name, importance=matrix)
        except ImportanceError:
            continue
        paths.append(path)
    return paths


def rows(found: list[Quality]) -> Iterable[str]:
    yield "| type | bits a weight | perplexity | KL mean | KL 99 % | same first choice |"
    yield "|---|--:|--:|--:|--:|--:|"
    for one in found:
        p = one.prediction
        yield (
            f"| {one.path.stem} | {one.bits:.2f} | {p.perplexity:.3f} | {p.divergence:.4f} | "
            f"{p.divergence_99:.3f} | {p.agreement:.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calibration", help="a text, or `ships`")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--chunks", type=int, default=40, help="of the calibration")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    checkpoint = Path(str(files("llamacli") / "demo"))
    held_out = conversations(random.Random(1), 100_000)
    text = joined(held_out, arguments.windows * WORDS_A_WINDOW)
    with tempfile.TemporaryDirectory(prefix="llamacli-bench-") as name:
        folder = Path(name)
        reference = folder / "reference.gguf"
        convert(checkpoint, reference, "F32")
        matrix = measure_importance(
            reference, calibration(arguments.calibration), chunks=arguments.chunks
        )
        paths = made(folder, checkpoint, None) + made(folder, checkpoint, matrix)
        found = sorted(compare(paths, reference, text), key=lambda one: -one.nbytes)
        print("\n".join(rows(found)))
        if arguments.plot is not None:
            arguments.plot.write_bytes(plot(found))


if __name__ == "__main__":
    main()
