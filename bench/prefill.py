"""Prefill, and a short answer after it, beside llama-bench with its default and best settings.

    python -m bench.prefill [--model FILE] [--runs 5]

llamacli runs with the settings that it takes by itself for a short answer; on a processor that may
be without flash attention, which reads a prompt somewhat faster and answers more slowly.
llama-bench's best settings are those of weights repacked and not, flash attention and not, that are
the fastest in a round, for the prompt alone or for both. None of the two chooses tokens.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.compare import Outcome, Setup, Target, apart, figure, in_turn, ratio, run_alone
from bench.llama_cpp_tools import llama_bench
from llamacli.machine import physical_cores, this_processor

PROMPT, ANSWER = 512, 64


def llamacli_rates(model: Path, prompt: int, answer: int) -> list[float]:
    """Tokens a second of a prompt, the second time that the model reads one, and of it and an
    answer's tokens together."""
    from llamacli.engine import Asked, Engine, chosen_settings
    from llamacli.tune.measure import decode_seconds, made_up_tokens, prefill_seconds

    settings = chosen_settings(Asked(context=prompt + answer + 8), None, this_processor())
    with Engine(model, settings) as engine:
        tokens = made_up_tokens(engine, prompt + answer)
        prefill_seconds(engine, tokens[:prompt])  # llama-bench warms up as well
        engine.keep(0)
        read = prefill_seconds(engine, tokens[:prompt])
        decoded = decode_seconds(engine, tokens, prompt)
        return [1 / read, (prompt + answer) / (prompt * read + answer * decoded)]


def measure(setup: Setup) -> Outcome:
    model, prompt, answer = setup.model(), *((64, 8) if setup.quick else (PROMPT, ANSWER))
    test = "-p", prompt, "-n", 0, "-pg", f"{prompt},{answer}"
    options: dict[str, tuple[str | int, ...]] = {
        "llama-bench": (),
        "llama-bench, -fa 1": ("-fa", 1),
        "llama-bench, -fa 1 --repack 0": ("-fa", 1, "--repack", 0),
        "llama-bench, -fa 0 --repack 0": ("-fa", 0, "--repack", 0),
    }
    ways: dict[str, Callable[[], list[float]]] = {
        name: partial(llama_bench, model, *test, *more) for name, more in options.items()
    }
    ways["llamacli"] = partial(apart, llamacli_rates, model, prompt, answer)
    results = in_turn(ways, setup.times(5))
    found = {
        part: {name: [rates[number] for rates in runs] for name, runs in results.items()}
        for number, part in enumerate(("prefill", "prefill and answer"))
    }
    wide = "AVX512" in this_processor().features
    target = {"prefill": Target(1.4) if wide else None, "prefill and answer": None}
    figures, ratios = [], []
    for part, rates in found.items():
        figures += [figure(f"{name}: {part}", "tokens a second", v) for name, v in rates.items()]
        ours = rates.pop("llamacli")
        best = [max(values) for values in zip(*rates.values(), strict=True)]
        ratios += [
            ratio(f"{part}, to llama-bench", ours, rates["llama-bench"], target[part]),
            ratio(f"{part}, to llama-bench's best", ours, best, Target(0.98)),
        ]
    return Outcome(
        "Prefill, 1B shape, Q4_K_M",
        tuple(figures),
        tuple(ratios),
        f"A prompt of {prompt} tokens, an answer of {answer}, {physical_cores()} threads.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
