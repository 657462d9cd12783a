"""What `llamacli run` costs beyond loading the model, evaluating and choosing tokens.

    python -m bench.overhead [--model FILE] [--runs 9]

A process's whole time, less the time inside llama.cpp's functions that load the model, make its
context and evaluate, and of choosing tokens; and the parts of what is left, each by a clock around
it.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from bench.compare import Outcome, Setup, Target, figure, run_alone

LLAMA_CPP = (
    "llama_model_load_from_file",
    "llama_init_from_model",
    "llama_decode",
)
CHOOSING = "choosing"  # by llama.cpp's samplers, or by numpy where that is quicker
PARTS = {
    "read_gguf": "reading the file's header",
    "check_llama": "checking it",
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
from types import SimpleNamespace
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
import llamacli.__main__
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
for name in ("read_gguf", "check_llama"):
    timed(llamacli.gguf, name)
timed(llamacli.engine.engine.Engine, "_fit")
from llamacli.engine import sampling
chooser = sampling.chooser

def timed_chooser(*arguments):
    held = SimpleNamespace(choosing=chooser(*arguments))
    timed(held, "choosing")
    return held.choosing

sampling.chooser = timed_chooser
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
    beyond = whole - sum(spent[name] for name in (*LLAMA_CPP, CHOOSING))
    rest = whole - sum(spent.values())
    times = {**spent, "rest": rest, "whole": whole, "beyond": beyond}
    return {name: 1000 * seconds for name, seconds in times.items()}


def measure(setup: Setup) -> Outcome:
    model = setup.model()
    run_once(model)  # pages the file in
    measured = [run_once(model) for _ in range(setup.times(9))]
    shown = {"whole": "whole", **{name: f"`{name}`" for name in LLAMA_CPP}}
    shown[CHOOSING] = "choosing tokens"
    shown |= {name: f"of what is left: {part}" for name, part in {**PARTS, **OTHERS}.items()}

    def values(name: str) -> list[float]:
        return [spent[name] for spent in measured]

    return Outcome(
        "`run` beyond loading and decoding, 1B shape",
        (
            *(figure(title, "ms", values(name)) for name, title in shown.items()),
            figure("all that is left", "ms", values("beyond"), Target(60, most=True)),
        ),
        note="A short question, an answer of 8 tokens.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
