"""What `llamacli run` costs beyond loading the model, evaluating and choosing tokens.

    python -m bench.overhead [--model FILE] [--runs 9]

A process's whole time, less the time inside llama.cpp's functions that load the model, make its
context, evaluate and sample.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from bench.compare import Outcome, Setup, Target, figure, run_alone

FUNCTIONS = (
    "llama_model_load_from_file",
    "llama_init_from_model",
    "llama_decode",
    "llama_sampler_sample",
)

SCRIPT = """
import atexit, json, sys, time
from llamacli.native import load_library
library, spent = load_library(), {}

def timed(name, function):
    def call(*arguments):
        started = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent[name] = spent.get(name, 0) + time.perf_counter() - started
    return call

functions = sys.argv.pop(1).split(",")
for name in functions:
    setattr(library, name, timed(name, getattr(library, name)))
atexit.register(lambda: print(json.dumps(spent), file=sys.stderr))
from llamacli.cli import main
main()
"""


def run_once(model: Path) -> dict[str, float]:
    """Seconds by function, and of the whole process as `whole`."""
    command = [sys.executable, "-c", SCRIPT, ",".join(FUNCTIONS), "run", "-m", str(model)]
    started = time.perf_counter()
    child = subprocess.run([*command, "-n", "8", "hello"], check=True, capture_output=True)
    whole = time.perf_counter() - started
    spent: dict[str, float] = json.loads(child.stderr.splitlines()[-1])
    return {**spent, "whole": whole}


def measure(setup: Setup) -> Outcome:
    model = setup.model()
    run_once(model)  # pages the file in
    found = [run_once(model) for _ in range(setup.times(9))]
    milliseconds = {name: [1000 * spent[name] for spent in found] for name in (*FUNCTIONS, "whole")}
    beyond = [
        milliseconds["whole"][i] - sum(milliseconds[name][i] for name in FUNCTIONS)
        for i in range(len(found))
    ]
    return Outcome(
        "`run` beyond loading and decoding, 1B shape",
        (
            *(figure(f"`{n}`" if n != "whole" else n, "ms", v) for n, v in milliseconds.items()),
            figure("beyond llama.cpp", "ms", beyond, Target(60, most=True)),
        ),
        note="A short question, an answer of 8 tokens.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
