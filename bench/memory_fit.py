"""The memory that is counted before loading, beside the peak of a process that loads and answers.

    python -m bench.memory_fit [--model FILE]

Each process fills its context, so that all of the KV cache and the buffers is touched.
"""

from pathlib import Path
from typing import Any

from bench.compare import Figure, Outcome, Setup, Target, apart, figure, ratio, run_alone

MIB = 1 << 20
WAYS: dict[str, dict[str, Any]] = {
    "repacked, mapped": {},
    "repacked, read": {"mmap": False},
    "as in the file, mapped": {"repack": False},
    "as in the file, read": {"repack": False, "mmap": False},
    "as in the file, Q8_0 cache": {"repack": False, "kv_type": "q8_0"},
    "as in the file, without flash attention": {"repack": False, "flash_attention": "off"},
}


def counted_and_real(model: Path, context: int, changes: dict[str, Any]) -> tuple[int, int]:
    """Bytes beyond what the process had before, counted and at the peak."""
    from llamacli.engine.engine import Engine
    from llamacli.engine.fit import Fitting
    from llamacli.engine.settings import EngineSettings
    from llamacli.machine import free_memory, this_processor
    from llamacli.system import peak_resident

    settings = EngineSettings(context=context, device="cpu", **changes)
    processor = this_processor()
    before = peak_resident()
    with Engine(model, settings) as engine:
        engine.prefill([1000] * engine.context_size)
        fitting = Fitting(engine.file, engine.shape, processor, (), free_memory())
        return fitting.need(engine.settings).peak, peak_resident() - before


def measure(setup: Setup) -> Outcome:
    model, context = setup.model(), 512 if setup.quick else 1024
    figures: list[Figure] = []
    ratios: list[Figure] = []
    for name, changes in WAYS.items():
        counted, real = apart(counted_and_real, model, context, changes)
        figures.append(figure(f"counted, {name}", "MiB", [counted / MIB]))
        figures.append(figure(f"peak, {name}", "MiB", [real / MIB]))
        ratios.append(ratio(f"counted to peak, {name}", [counted], [real], Target(1.1, most=True)))
    note = f"A context of {context} tokens, filled. Under 0.9 would be a miss as well."
    return Outcome("Memory, counted before loading", tuple(figures), tuple(ratios), note)


if __name__ == "__main__":
    run_alone(measure, __doc__)
