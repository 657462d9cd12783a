"""Two workers on this machine: llamacli's speed beside that of llama-bench's --rpc, in one run.

    python -m bench.workers [--model FILE] [--runs 5]

All layers lie on the workers, so that each token goes there and back. On one machine it is the
protocol and what stands in between that is measured, not a network. Both have the same workers,
with a thread each.
"""

import statistics
import time
from contextlib import ExitStack
from pathlib import Path

from bench.compare import Outcome, Setup, Target, apart, figure, in_turn, ratio, run_alone
from bench.llama_cpp_tools import llama_bench
from llamacli.workers.addresses import Address
from tests.standins.workers import worker

PROMPT, TOKENS, REPEATS = 512, 64, 3


def by_llamacli(model: Path, addresses: list[Address], prompt: int, tokens: int) -> list[float]:
    """Tokens a second of a prompt and of what follows it, the medians."""
    from llamacli.engine.engine import Engine
    from llamacli.engine.settings import EngineSettings

    settings = EngineSettings(
        context=prompt + tokens, workers=tuple(addresses), split=(0.0, 1.0, 1.0)
    )
    reads, writes = [], []
    with Engine(model, settings) as engine:
        made_up = [1000 + i % 1000 for i in range(prompt)]
        engine.prefill(made_up)
        for _ in range(REPEATS):
            engine.keep(0)
            begun = time.perf_counter()
            engine.prefill(made_up)
            engine.logit(0)
            reads.append(prompt / (time.perf_counter() - begun))
            begun = time.perf_counter()
            for i in range(tokens):
                engine.decode(1000 + i)
                engine.logit(0)
            writes.append(tokens / (time.perf_counter() - begun))
    return [statistics.median(reads), statistics.median(writes)]


def measure(setup: Setup) -> Outcome:
    model = setup.model()
    prompt, tokens = (32, 8) if setup.quick else (PROMPT, TOKENS)
    with ExitStack() as stack:
        addresses = [stack.enter_context(worker()).address for _ in range(2)]
        listed = ",".join(map(str, addresses))
        options = ("--rpc", listed, "-ngl", 99, "-fa", 1, "-p", prompt, "-n", tokens)
        ways = {
            "llama-bench --rpc": lambda: llama_bench(model, *options, repeats=REPEATS, rpc=True),
            "llamacli --workers": lambda: apart(by_llamacli, model, addresses, prompt, tokens),
        }
        measured = in_turn(ways, setup.times(5))
    theirs, ours = measured.values()
    figures, ratios = [], []
    for i, what in enumerate(("prefill", "decode")):
        for name, values in measured.items():
            figures.append(figure(f"{name}, {what}", "tokens a second", [v[i] for v in values]))
        both = [v[i] for v in ours], [v[i] for v in theirs]
        ratios.append(ratio(f"llamacli to llama-bench, {what}", *both, Target(0.97)))
    return Outcome(
        "Two workers on one machine, 1B shape, Q4_K_M",
        tuple(figures),
        tuple(ratios),
        f"A prompt of {prompt} tokens and {tokens} after it, {REPEATS} times a process.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
