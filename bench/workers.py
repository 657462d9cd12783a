"""Two workers on this machine: llamacli's speed beside that of llama-bench's --rpc, in one run.

    python -m bench.workers [--model FILE] [--runs 8] [--quick]

All layers lie on the workers, so that each token goes there and back. On one machine it is the
protocol and what stands in between that is measured, not a network. Both have the same workers,
with a thread each. Then, what workers that keep weights are sent at a second start. The tables go
into docs/several-machines.md; with --quick to stdout alone.
"""

import argparse
import math
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

from bench.compare import (
    Outcome,
    Setup,
    Target,
    add_options,
    apart,
    figure,
    in_turn,
    ratio,
    set_up,
    table,
)
from bench.llama_cpp_tools import llama_bench
from bench.report import DOCS, machine, with_figures
from llamacli.engine.engine import Engine
from llamacli.engine.settings import EngineSettings
from llamacli.gguf import read_gguf
from llamacli.workers.addresses import Address
from tests.standins.workers import worker

PAGE, NAME = DOCS / "several-machines.md", "workers"
PROMPT, TOKENS, REPEATS = 128, 64, 2


def settings(addresses: list[Address], context: int) -> EngineSettings:
    return EngineSettings(context=context, workers=tuple(addresses), split=(0.0, 1.0, 1.0))


def by_llamacli(model: Path, addresses: list[Address], prompt: int, tokens: int) -> list[float]:
    """Tokens a second of a prompt and of an answer from an empty cache, the medians."""
    reads, writes = [], []
    with Engine(model, settings(addresses, prompt + tokens)) as engine:
        made_up = [1000 + i % 1000 for i in range(prompt)]
        engine.prefill(made_up)
        for _ in range(REPEATS):
            engine.keep(0)
            begun = time.perf_counter()
            engine.prefill(made_up)
            engine.logit(0)
            reads.append(prompt / (time.perf_counter() - begun))
            engine.keep(0)
            begun = time.perf_counter()
            for token in made_up[:tokens]:
                engine.decode(token)
                engine.logit(0)
            writes.append(tokens / (time.perf_counter() - begun))
    return [statistics.median(reads), statistics.median(writes)]


def measure(setup: Setup) -> Outcome:
    model = setup.model()
    file = read_gguf(model)
    prompt, tokens = (32, 8) if setup.quick else (PROMPT, TOKENS)
    with ExitStack() as stack:
        addresses = [stack.enter_context(worker()).address for _ in range(2)]
        listed = ",".join(map(str, addresses))
        options = ("--rpc", listed, "-ngl", 99, "-fa", 1, "-p", prompt, "-n", tokens)
        ways = {
            "llama-bench --rpc": lambda: llama_bench(model, *options, repeats=REPEATS),
            "llamacli --workers": lambda: apart(by_llamacli, model, addresses, prompt, tokens),
        }
        measured = in_turn(ways, setup.times(8))
    theirs, ours = measured.values()
    figures, ratios = [], []
    for i, what in enumerate(("prefill", "decode")):
        for name, values in measured.items():
            figures.append(figure(f"{name}, {what}", "tokens a second", [v[i] for v in values]))
        both = [v[i] for v in ours], [v[i] for v in theirs]
        ratios.append(ratio(f"llamacli to llama-bench, {what}", *both, Target(0.97)))
    size = sum(math.prod(tensor.shape) for tensor in file.tensors) / 1e6
    return Outcome(
        "Two workers on one machine",
        tuple(figures),
        tuple(ratios),
        f"A model of {size:.0f} M parameters, {file.quantization}; a prompt of {prompt} tokens and "
        f"an answer of {tokens}, {REPEATS} times a process.",
    )


def starts(model: Path, addresses: list[Address], count: int) -> list[tuple[int, float]]:
    """The bytes that each load sends, and its seconds."""
    collected = []
    for _ in range(count):
        begun = time.perf_counter()
        with Engine(model, settings(addresses, 512)) as engine:
            taken = time.perf_counter() - begun
            collected.append((sum(relay.link.sent for relay in engine.workers.relays), taken))
    return collected


def start_again(setup: Setup) -> str:
    """What a first and a second start send to workers, with and without --cache, as Markdown."""
    model = setup.model()
    lines = ["| | MB sent | seconds |", "| --- | ---: | ---: |"]
    for kept in (False, True):
        with ExitStack() as stack:
            addresses = []
            for number in range(2):
                cache = setup.folder / f"cache-{number}" if kept else None
                if cache is not None:
                    cache.mkdir()
                addresses.append(stack.enter_context(worker(cache=cache)).address)
            for which, (nbytes, taken) in zip(
                ("first", "second"), starts(model, addresses, 2), strict=True
            ):
                name = f"{which} start, workers {'with' if kept else 'without'} --cache"
                lines.append(f"| {name} | {nbytes / 1e6:.1f} | {taken:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    with set_up(add_options(parser).parse_args()) as setup:
        outcome = measure(setup)
        figures = "\n\n".join([machine(), table(outcome), start_again(setup)])
        print(figures)
        if not setup.quick:
            page = with_figures(PAGE.read_text(encoding="utf-8"), figures, NAME)
            PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
