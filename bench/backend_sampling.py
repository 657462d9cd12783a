"""Whether llama.cpp's samplers on the device that computes the logits would be quicker than ours.

    python -m bench.backend_sampling MODEL [--parallel 1 8 32] [--steps 32]

One sequence's sampler there is a few operations on its row alone, and what they leave is copied row
by row. Measured are steps of so many sequences: their logits fetched and looked through here
(greedy), and with a sampler of the device attached to each that leaves its likeliest token or its
50 likeliest ones, which are fetched. The tokens are compared.
"""

import argparse
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from llamacli.batch import BatchEngine
from llamacli.engine import EngineSettings, Part
from llamacli.tune.measure import made_up_tokens


def stepped(
    engine: BatchEngine, parallel: int, steps: int, choose: Callable[[], list[int]]
) -> tuple[float, list[list[int]]]:
    """Milliseconds a step, and the tokens chosen in each."""
    library, given = engine.library, made_up_tokens(engine, parallel * (steps + 8))
    library.llama_memory_clear(engine.memory, False)
    chosen, spent = [], 0.0
    for step in range(steps + 8):
        tokens = given[step * parallel : (step + 1) * parallel]
        engine.fill([Part(sequence, step, [token], 1) for sequence, token in enumerate(tokens)])
        started = time.perf_counter()
        assert library.llama_decode(engine.context_pointer, engine.batch) == 0
        chosen.append(choose())
        if step >= 8:  # the first ones capture what is repeated later
            spent += time.perf_counter() - started
    return 1000 * spent / steps, chosen


def attach(engine: BatchEngine, parallel: int, made: Callable[[], Any]) -> list[Any]:
    library = engine.library
    chains = []
    for sequence in range(parallel):
        sampler = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
        library.llama_sampler_chain_add(sampler, made())
        assert library.llama_set_sampler(engine.context_pointer, sequence, sampler)
        chains.append(sampler)
    return chains


def detach(engine: BatchEngine, chains: list[Any]) -> None:
    for sequence, sampler in enumerate(chains):
        engine.library.llama_set_sampler(engine.context_pointer, sequence, None)
        engine.library.llama_sampler_free(sampler)


def compare(model: Path, parallel: int, steps: int) -> dict[str, float]:
    """Milliseconds a step of each way."""
    with BatchEngine(model, EngineSettings(context=256), parallel) as engine:
        library, context = engine.library, engine.context_pointer

        def here() -> list[int]:
            tokens: list[int] = engine.all_logits(parallel).argmax(axis=1).tolist()
            return tokens

        def there() -> list[int]:
            likeliest = library.llama_get_sampled_candidates_ith
            return [int(likeliest(context, row)[0]) for row in range(parallel)]

        found: dict[str, float] = {}
        found["evaluation"], _ = stepped(
            engine, parallel, steps, lambda: library.llama_synchronize(context) or []
        )
        found["here"], ours = stepped(engine, parallel, steps, here)
        for name, made in (
            ("there", lambda: library.llama_sampler_init_temp(0.0)),
            ("there, of 50", lambda: library.llama_sampler_init_top_k(50)),
        ):
            chains = attach(engine, parallel, made)
            found[name], theirs = stepped(engine, parallel, steps, there)
            detach(engine, chains)
            if name == "there":
                pairs = zip(chain.from_iterable(ours), chain.from_iterable(theirs), strict=True)
                found["other tokens"] = sum(a != b for a, b in pairs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--parallel", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=32)
    given = parser.parse_args()
    for parallel in given.parallel:
        found = compare(given.model, parallel, given.steps)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        print(f"{parallel} side by side, ms a step: {shown}", flush=True)


if __name__ == "__main__":
    main()
