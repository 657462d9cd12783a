"""What `llamacli run` costs beyond loading the model, evaluating and choosing tokens.

    python -m bench.overhead [--model FILE] [--runs 9]

A process's whole time, less the time inside llama.cpp's functions that load the model, make its
context, evaluate and sample; and the parts of what is left, each by a clock around it. Then the
share of a long answer's time that isn't llama_decode's, greedy, sampled, and of eight side by side.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.compare import Outcome, Setup, Target, figure, run_alone
from llamacli.answer import generate
from llamacli.batch import BatchEngine, Job, answer_all
from llamacli.engine import Engine, EngineSettings, SamplingSettings

SIDE_BY_SIDE = 8
SAMPLINGS = {
    "greedy": SamplingSettings(temperature=0),
    "sampled": SamplingSettings(seed=1),
}

LLAMA_CPP = (
    "llama_model_load_from_file",
    "llama_init_from_model",
    "llama_decode",
    "llama_sampler_sample",
)
PARTS = {
    "read_gguf": "reading the file's header",
    "check_llama": "checking it",
    "make_vocabulary": "the control tokens",
    "_fit": "the memory it takes",
    "encode_messages": "making the prompt's tokens",
}
OTHERS = {
    "python": "Python's start",
    "cli": "importing the command line",
    "library": "importing llama.cpp",
    "end": "the system's taking the process's memory back",
    "rest": "what else is imported, and reading the options",
}

SCRIPT = """
import json, os, sys, time
begun, names, started = time.time(), sys.argv.pop(1).split(","), float(sys.argv.pop(1))
spent = {"python": begun - started}

def timed(owner, name):
    function = getattr(owner, name)
    def call(*arguments, **settings):
        start = time.perf_counter()
        try:
            return function(*arguments, **settings)
        finally:
            spent[name] = spent.get(name, 0) + time.perf_counter() - start
    setattr(owner, name, call)

start = time.perf_counter()
from llamacli.cli import start as run
import llamacli.commands.run
spent["cli"] = time.perf_counter() - start
start = time.perf_counter()
from llamacli.machine.native import load_library
library = load_library()
spent["library"] = time.perf_counter() - start
import llamacli.engine.engine
import llamacli.engine.model
for name in names:
    timed(library, name)
for name in ("read_gguf", "check_llama", "make_vocabulary"):
    timed(llamacli.engine.model, name)
timed(llamacli.engine.engine.Engine, "_fit")
timed(llamacli.commands.run, "encode_messages")
leave = os._exit

def tell(code):
    spent["end"] = -time.time()
    print(json.dumps(spent), file=sys.stderr, flush=True)
    leave(code)

os._exit = tell
run()
"""


def run_once(model: Path) -> dict[str, float]:
    """Milliseconds by function and part, of the whole process, and of what isn't llama.cpp's."""
    command = [sys.executable, "-c", SCRIPT, ",".join(LLAMA_CPP), str(time.time())]
    started = time.perf_counter()
    child = subprocess.run(
        [*command, "run", "-m", str(model), "-n", "8", "hello"], check=True, capture_output=True
    )
    whole, ended = time.perf_counter() - started, time.time()
    spent: dict[str, float] = json.loads(child.stderr.splitlines()[-1])
    spent["end"] += ended
    beyond = whole - sum(spent[name] for name in LLAMA_CPP)
    rest = whole - sum(spent.values())
    times = {**spent, "rest": rest, "whole": whole, "beyond": beyond}
    return {name: 1000 * seconds for name, seconds in times.items()}


class Watched:
    """Stands in for llama_decode, and counts its seconds."""

    def __init__(self, engine: Engine) -> None:
        self.decode, self.seconds = engine._decode, 0.0
        engine._decode = self

    def __call__(self, context: Any, batch: Any) -> int:
        started = time.perf_counter()
        code = int(self.decode(context, batch))
        self.seconds += time.perf_counter() - started
        return code


def shares(model: Path, tokens: int) -> dict[str, float]:
    """Percent of the time of decoding that many tokens that isn't llama_decode's."""
    import numpy as np  # noqa: F401, which choosing tokens is quicker with

    found = {}
    prompt, settings = [*range(100, 164)], EngineSettings(context=1024)
    with Engine(model, settings) as engine:
        watched = Watched(engine)
        for name, sampling in SAMPLINGS.items():
            engine.prefill(prompt)
            watched.seconds = 0.0
            result = [c.result for c in generate(engine, prompt, sampling, max_tokens=tokens)][-1]
            assert result is not None
            whole = result.decode_seconds + result.prefill_seconds
            found[name] = 100 * (1 - watched.seconds / whole)
    with BatchEngine(model, settings, SIDE_BY_SIDE) as engine:
        watched = Watched(engine)
        jobs = [
            Job([number, *prompt], SAMPLINGS["sampled"], tokens) for number in range(SIDE_BY_SIDE)
        ]
        started = time.perf_counter()
        list(answer_all(engine, iter(jobs)))
        whole = time.perf_counter() - started
        found[f"{SIDE_BY_SIDE} side by side"] = 100 * (1 - watched.seconds / whole)
    return found


def measure(setup: Setup) -> Outcome:
    model = setup.model()
    run_once(model)  # pages the file in
    measured = [run_once(model) for _ in range(setup.times(9))]
    shown = {"whole": "whole", **{name: f"`{name}`" for name in LLAMA_CPP}}
    shown |= {name: f"of what is left: {part}" for name, part in {**PARTS, **OTHERS}.items()}

    share = [shares(model, 16 if setup.quick else 64) for _ in range(min(len(measured), 3))]

    def values(name: str) -> list[float]:
        return [spent[name] for spent in measured]

    return Outcome(
        "`run` beyond loading and decoding, 1B shape",
        (
            *(figure(title, "ms", values(name)) for name, title in shown.items()),
            figure("all that is left", "ms", values("beyond"), Target(60, most=True)),
            *(
                figure(
                    f"beside `llama_decode`, {name}",
                    "% of a step",
                    [one[name] for one in share],
                    Target(3, most=True),
                )
                for name in share[0]
            ),
        ),
        note="A short question, an answer of 8 tokens; for the shares 64 tokens.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
