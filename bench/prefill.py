"""Prefill speed beside llama-bench's, with its default settings and with its best ones.

    python -m bench.prefill [--model FILE] [--runs 5]

llamacli runs with the settings that it takes by itself for a short answer. llama-bench's best
settings are the better of weights repacked and not, with flash attention.
"""

from pathlib import Path

from bench.compare import Outcome, Setup, Target, apart, figure, in_turn, ratio, run_alone
from bench.llama_cpp_tools import llama_bench
from llamacli.machine import physical_cores, this_processor

PROMPT = 512


def llamacli_prefill(model: Path, prompt: int) -> float:
    """Tokens a second of a prompt, the second time that the model reads one."""
    from llamacli.engine.engine import Engine
    from llamacli.engine.settings import Asked, chosen_settings
    from llamacli.tune.measure import made_up_tokens, prefill_seconds

    settings = chosen_settings(Asked(context=prompt + 8), None, this_processor())
    with Engine(model, settings) as engine:
        tokens = made_up_tokens(engine, prompt)
        prefill_seconds(engine, tokens)  # llama-bench warms up as well
        engine.keep(0)
        return 1 / prefill_seconds(engine, tokens)


def measure(setup: Setup) -> Outcome:
    model, prompt = setup.model(), 64 if setup.quick else PROMPT
    test = "-p", prompt, "-n", 0
    ways = {
        "llama-bench": lambda: llama_bench(model, *test)[0],
        "llama-bench, -fa 1": lambda: llama_bench(model, *test, "-fa", 1)[0],
        "llama-bench, -fa 1 --repack 0": lambda: llama_bench(model, *test, "-fa", 1, "--repack", 0)[
            0
        ],
        "llamacli": lambda: apart(llamacli_prefill, model, prompt),
    }
    results = in_turn(ways, setup.times(5))
    theirs = {name: values for name, values in results.items() if name != "llamacli"}
    best = [max(values) for values in zip(*theirs.values(), strict=True)]
    wide = "AVX512" in this_processor().features
    default = Target(1.4) if wide else None
    return Outcome(
        "Prefill, 1B shape, Q4_K_M",
        tuple(figure(name, "tokens a second", values) for name, values in results.items()),
        (
            ratio("llamacli to llama-bench", results["llamacli"], results["llama-bench"], default),
            ratio("llamacli to llama-bench's best", results["llamacli"], best, Target(0.98)),
        ),
        f"A prompt of {prompt} tokens, {physical_cores()} threads.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
