"""Measurements side by side: taken in turn, summed up by medians with their range, as tables.

Ratios are taken within each round, so that what slows the machine for a while doesn't decide.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from convert import convert
from llamacli.prompt.encode import LLAMA3_TEMPLATE
from tests.standins.checkpoint import shape_config, write_checkpoint

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """A limit that a median should keep: at least or, with most, at most."""

    limit: float
    most: bool = False

    def met(self, value: float) -> bool:
        return value <= self.limit if self.most else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.most else '≥'} {self.limit:g}"


@dataclass(frozen=True)
class Figure:
    """A quantity, measured several times."""

    name: str
    unit: str
    median: float
    lowest: float
    highest: float
    target: Target | None = None


@dataclass(frozen=True)
class Outcome:
    """What a comparison came to: the figures of each way, their ratios, and under what settings."""

    title: str
    figures: tuple[Figure, ...]
    ratios: tuple[Figure, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Setup:
    """What a comparison is run with: a folder for its files, how often, how thoroughly."""

    folder: Path
    given: Path | None = None
    runs: int | None = None
    quick: bool = False

    def times(self, usual: int) -> int:
        """How often to measure: as asked, once where quick, else as usual."""
        return self.runs or (1 if self.quick else usual)

    def model(self) -> Path:
        """The given GGUF file, else one of 1B shape in Q4_K_M, made on first use."""
        path = self.given or self.folder / "1b-Q4_K_M.gguf"
        if not path.exists():
            checkpoint = self.folder / "1b"
            write_checkpoint(checkpoint, shape_config("1b"))
            config = checkpoint / "tokenizer_config.json"  # with a template as real models have it
            fields = {**json.loads(config.read_text()), "chat_template": LLAMA3_TEMPLATE}
            config.write_text(json.dumps(fields))
            convert(checkpoint, path, "Q4_K_M")
        return path


Measure = Callable[[Setup], Outcome]


def in_turn(ways: Mapping[str, Callable[[], T]], runs: int) -> dict[str, list[T]]:
    """What each way gives, run by run, each run beginning with another way."""
    results: dict[str, list[T]] = {name: [] for name in ways}
    names = list(ways)
    for i in range(runs):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(ways[name]())
    return results


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """What a module's function gives in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def figure(name: str, unit: str, values: Sequence[float], target: Target | None = None) -> Figure:
    return Figure(name, unit, statistics.median(values), min(values), max(values), target)


def ratio(
    name: str, ours: Sequence[float], theirs: Sequence[float], target: Target | None = None
) -> Figure:
    """Ours to theirs, round by round."""
    return figure(name, "", [a / b for a, b in zip(ours, theirs, strict=True)], target)


def table(outcome: Outcome) -> str:
    """Markdown: a table of the figures, one of the ratios, the note."""
    lines = [
        "| | | median | lowest | highest | target |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for one in (*outcome.figures, *outcome.ratios):
        values = " | ".join(map(_number, (one.median, one.lowest, one.highest)))
        lines.append(f"| {one.name} | {one.unit or 'ratio'} | {values} | {_target(one)} |")
    return "\n".join([*lines, *(["", outcome.note] if outcome.note else [])])


def run_alone(measure: Measure, description: str | None) -> None:
    """The command line of a single comparison: its table on stdout."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    with set_up(add_options(parser).parse_args()) as setup:
        print(table(measure(setup)))


def add_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Those that every comparison has."""
    parser.add_argument("--model", type=Path, help="a GGUF file; without it, one of 1B shape")
    parser.add_argument("--runs", type=int, help="how often to measure each")
    parser.add_argument("--quick", action="store_true", help="once each, on less: to try it out")
    return parser


@contextmanager
def set_up(arguments: argparse.Namespace) -> Iterator[Setup]:
    """A Setup whose folder goes at the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield Setup(Path(folder), arguments.model, arguments.runs, arguments.quick)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _target(one: Figure) -> str:
    if one.target is None:
        return ""
    return f"{one.target}, {'met' if one.target.met(one.median) else 'missed'}"
