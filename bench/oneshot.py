"""One question by a process of its own, beside llama-completion: whole, and to the first byte.

    python -m bench.oneshot [--model FILE] [--runs 5]

About 512 tokens in, 64 out, the same text, context and greedy choice; llama-completion has its
default settings otherwise. The file is in the page cache.
"""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.compare import Outcome, Setup, Target, figure, in_turn, ratio, run_alone
from bench.llama_cpp_tools import tool
from bench.prompt_cache import instruction

PROMPT, ANSWER = 512, 64


@dataclass(frozen=True)
class Times:
    """Seconds from a process's start: to the first byte of the answer, and to its end."""

    first: float
    whole: float


def timed(command: list[str], answer: int) -> Times:
    """Run it; what it tells on stderr must say that the answer had so many tokens."""
    environment = {**os.environ, "LLAMACLI_HOME": os.devnull}
    pipe = subprocess.PIPE
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        assert child.stdout.read(1), "no answer came"
        first = time.perf_counter() - started
        child.stdout.read()
        told = child.stderr.read().decode(errors="replace")
        child.wait()
        whole = time.perf_counter() - started
    counts = re.findall(r"answer (\d+) tokens| eval time =.*/ +(\d+) runs", told)
    # llama-completion doesn't evaluate the last token, and so doesn't count it
    assert any(int(a or 0) == answer or int(b or 0) == answer - 1 for a, b in counts), told
    return Times(first, whole)


def llamacli_run(model: Path, prompt: str, answer: int) -> list[str]:
    command = [sys.executable, "-m", "llamacli", "run", "--raw", "-v", "-m", str(model)]
    return [*command, "-c", "1024", "--temp", "0", "-n", str(answer), prompt]


def llama_completion(model: Path, prompt: str, answer: int) -> list[str]:
    command = [str(tool("llama-completion")), "-m", str(model), "-p", prompt, "-n", str(answer)]
    options = ["-c", "1024", "--temp", "0", "-no-cnv", "--no-display-prompt", "--ignore-eos"]
    return [*command, *options, "--perf"]


def measure(setup: Setup) -> Outcome:
    model, answer = setup.model(), 8 if setup.quick else ANSWER
    tokens = 32 if setup.quick else PROMPT
    prompt = instruction(model, tokens)
    ways = {
        "llamacli": lambda: timed(llamacli_run(model, prompt, answer), answer),
        "llama-completion": lambda: timed(llama_completion(model, prompt, answer), answer),
    }
    found = in_turn(ways, setup.times(5))
    whole = {name: [one.whole for one in times] for name, times in found.items()}
    first = {name: [one.first for one in times] for name, times in found.items()}
    return Outcome(
        "One question cold, 1B shape, Q4_K_M",
        tuple(
            figure(f"{name}, {what}", "seconds", values[name])
            for what, values in (("whole", whole), ("first byte", first))
            for name in found
        ),
        (
            ratio(
                "speed of llamacli to llama-completion's",
                whole["llama-completion"],
                whole["llamacli"],
                Target(1.3),
            ),
            ratio(
                "first byte of llamacli to llama-completion's",
                first["llamacli"],
                first["llama-completion"],
                Target(0.8, most=True),
            ),
        ),
        f"Processes of their own, about {tokens} tokens in, {answer} out, the file in memory.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
