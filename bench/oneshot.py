"""One question by a process of its own, beside llama-completion: whole, and to the first byte.

    python -m bench.oneshot [--model FILE] [--runs 5]

About 512 tokens in, 64 out, the same text, greedy choice; both have their default settings
otherwise, and once more llama-completion has the context that is llamacli's default, 8,192 tokens,
instead of all that the model knows. The file is in the page cache.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.compare import Figure, Outcome, Setup, Target, figure, in_turn, ratio, run_alone
from bench.llama_cpp_tools import tool
from bench.prompt_cache import instruction

PROMPT, ANSWER = 512, 64
THEIRS, SAME = "llama-completion", "llama-completion, 8,192 tokens of context"


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
    return [*command, "--temp", "0", "-n", str(answer), prompt]


def llama_completion(model: Path, prompt: str, answer: int, *more: str) -> list[str]:
    command = [str(tool("llama-completion")), "-m", str(model), "-p", prompt, "-n", str(answer)]
    options = ["--temp", "0", "-no-cnv", "--no-display-prompt", "--ignore-eos", "--perf"]
    return [*command, *options, *more]


def measure(setup: Setup) -> Outcome:
    model, answer = setup.model(), 8 if setup.quick else ANSWER
    tokens = 32 if setup.quick else PROMPT
    prompt = instruction(model, tokens)
    ways = {
        "llamacli": lambda: timed(llamacli_run(model, prompt, answer), answer),
        THEIRS: lambda: timed(llama_completion(model, prompt, answer), answer),
        SAME: lambda: timed(llama_completion(model, prompt, answer, "-c", "8192"), answer),
    }
    results = in_turn(ways, setup.times(5))
    whole = {name: [one.whole for one in times] for name, times in results.items()}
    first = {name: [one.first for one in times] for name, times in results.items()}
    return Outcome(
        "One question cold, 1B shape, Q4_K_M",
        tuple(
            figure(f"{name}, {what}", "seconds", values[name])
            for what, values in (("whole", whole), ("first byte", first))
            for name in results
        ),
        tuple(
            one
            for name, targets in ((THEIRS, (1.3, 0.8)), (SAME, (None, None)))
            for one in _ratios(name, whole, first, *targets)
        ),
        f"Processes of their own, about {tokens} tokens in, {answer} out, the file in memory.",
    )


def _ratios(
    theirs: str,
    whole: Mapping[str, Sequence[float]],
    first: Mapping[str, Sequence[float]],
    speed: float | None,
    most: float | None,
) -> Iterator[Figure]:
    """llamacli's speed to theirs, and its time to the first byte, each with its target if any."""
    target = None if speed is None else Target(speed)
    yield ratio(f"speed, to {theirs}", whole[theirs], whole["llamacli"], target)
    target = None if most is None else Target(most, most=True)
    yield ratio(f"time to the first byte, to {theirs}", first["llamacli"], first[theirs], target)


if __name__ == "__main__":
    run_alone(measure, __doc__)
