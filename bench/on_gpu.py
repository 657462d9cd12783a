"""One stage of bench.gpu: what it measures of llamacli and of llama.cpp's programs.

    python -m bench.on_gpu STAGE MODEL [--rounds 3]

Lines are told as they come; each figure and its ratio to others' goes to stdout at the end as JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import peers
from bench.checking import checking_costs
from bench.steps import WAYS, profiled
from llamacli.answer import Result, generate
from llamacli.batch import BatchEngine, Job, answer_all
from llamacli.engine import Engine, EngineSettings, SamplingSettings, chooser, sampler_chain
from llamacli.speculate import MOST_ROWS, DraftingEngine
from llamacli.tune.measure import decode_seconds, made_up_tokens
from tests.standins.checkpoint import SPECIALS
from tests.standins.walk import walk

DEPTH, DECODED = 512, 256
PROMPT, ANSWER, SIDE_BY_SIDE = 155, 64, (8, 32)
GREEDY = SamplingSettings(temperature=0)
SAMPLED = SamplingSettings(temperature=0.7, top_k=50, top_p=0.9, seed=1)
AS_SAMPLED = {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.0, "seed": 1}
FILE, REWRITTEN = 2400, 1024  # tokens of a file, and those that are rewritten
CHANGES = {"one change": [200], "a change every 30 tokens": range(30, FILE, 30)}  # which of them
CHUNKS = 32

Found = dict[str, float]


def whole_answer(engine: Engine, sampling: SamplingSettings, number: int) -> float:
    """Tokens a second from the prompt's end to the answer's, text and all."""
    asked = peers.prompts(1, DEPTH, number)[0]
    started = time.perf_counter()
    result = [c.result for c in generate(engine, asked, sampling, max_tokens=DECODED)][-1]
    assert result is not None and result.answer_tokens > DECODED / 2, "it ended early"
    return result.answer_tokens / (time.perf_counter() - started - result.prefill_seconds)


def served_answer(address: str, number: int) -> float:
    """Tokens a second, as llama-server counts them."""
    one = peers.completion(address, peers.prompts(1, DEPTH, number)[0], DECODED)
    return float(one["timings"]["predicted_per_second"])


def decoding(model: Path, rounds: int) -> Found:
    """Whole answers beside llama-bench, which chooses no token, and llama-server."""
    found: Found = {}
    settings = EngineSettings(context=DEPTH + DECODED + 64, outputs=MOST_ROWS)
    # One program on the GPU at a time: a server that only waits costs others 0.1 ms an evaluation.
    with peers.llama_server(model, 1) as address:
        served = [served_answer(address, number) for number in range(-1, rounds)][1:]
    reading, plain = peers.llama_bench(model, 512, DECODED, DEPTH, rounds)
    with Engine(model, settings) as engine:
        tell(f"{engine.name}, {engine.settings.gpu_layers} layers on a GPU")
        own = SamplingSettings.from_metadata(engine.file.metadata, seed=1)
        ours = {"greedy": GREEDY, "temperature 0.7": SAMPLED, "the file's own": own}
        rates: dict[str, list[float]] = {name: [] for name in ours}
        whole_answer(engine, GREEDY, -1)
        for number in range(rounds):
            for name, sampling in ours.items():
                rates[name].append(whole_answer(engine, sampling, number))
        tokens = made_up_tokens(engine, DEPTH + DECODED)
        found["evaluation ms"] = 1000 * decode_seconds(engine, tokens, DEPTH)
        for name, sampling in ours.items():
            found[f"choosing ms, {name}"] = choosing(engine, sampling)
        costs = checking_costs(engine, DEPTH, 2.0)
    found |= {"llama-bench": plain, "llama-bench reading": reading}
    found["llama-server"] = statistics.median(served)
    for name, values in rates.items():
        found[name] = statistics.median(values)
        found[f"{name} to llama-bench"] = found[name] / plain
        found[f"{name} to llama-server"] = found[name] / found["llama-server"]
    rest = 1000 / found["greedy"] - found["evaluation ms"] - found["choosing ms, greedy"]
    found["Python's share"] = rest * found["greedy"] / 1000
    tell("checking drafts, in evaluations of one: ", costs)
    return found


def choosing(engine: Engine, sampling: SamplingSettings) -> float:
    """Milliseconds of a choice from logits that have just come."""
    spent = 0.0
    with sampler_chain(engine, sampling, 1) as chain:
        choose = chooser(engine, sampling, chain)
        for _ in range(32):
            engine.decode(1234)
            engine.library.llama_synchronize(engine.context_pointer)
            started = time.perf_counter()
            choose(-1)
            spent += time.perf_counter() - started
            engine.keep(len(engine.tokens) - 1)
    return 1000 * spent / 32


def side_by_side(
    engine: BatchEngine, asked: list[list[int]], sampling: SamplingSettings = GREEDY
) -> float:
    """Answers' tokens a second."""
    started = time.perf_counter()
    results = [r for _, r in answer_all(engine, (Job(one, sampling, ANSWER) for one in asked))]
    made = sum(result.answer_tokens for result in results if isinstance(result, Result))
    return made / (time.perf_counter() - started)


def batch(model: Path, rounds: int) -> Found:
    """Answers side by side beside llama-server and llama-batched-bench."""
    found: Found = {}
    for parallel in SIDE_BY_SIDE:
        ours: dict[str, list[float]] = {"greedy": [], "sampled": []}
        theirs: dict[str, list[float]] = {"greedy": [], "sampled": []}
        with (
            BatchEngine(model, EngineSettings(context=1024), parallel) as engine,
            peers.llama_server(model, parallel) as address,
        ):
            for number in range(-1, rounds):  # the first time some things are only done once
                asked = peers.prompts(parallel, PROMPT, number)
                for name, sampling, wanted in (
                    ("greedy", GREEDY, peers.GREEDY), ("sampled", SAMPLED, AS_SAMPLED),
                ):  # fmt: skip
                    mine = side_by_side(engine, asked, sampling)
                    other = peers.side_by_side(address, asked, ANSWER, wanted)
                    if number >= 0:
                        ours[name].append(mine)
                        theirs[name].append(other)
            for name, sampling in WAYS.items():
                step = profiled(engine, peers.prompts(parallel, PROMPT, 99), sampling, ANSWER)
                tell(f"{parallel} {name}: {step}")
                found[f"{parallel} {name}, Python's share"] = step.python / step.whole
                found[f"{parallel} {name}, ms a step"] = step.whole
        for name in ours:
            mine, other = statistics.median(ours[name]), statistics.median(theirs[name])
            found[f"{parallel} {name}"] = mine
            found[f"{parallel} {name}, llama-server"] = other
            found[f"{parallel} {name} to llama-server"] = mine / other
            tell(f"{parallel} {name}: {mine:.0f}/s, llama-server {other:.0f}/s: {mine / other:.2f}")
        bound = peers.llama_batched_bench(model, PROMPT, ANSWER, parallel)
        found |= {f"{parallel}, llama-batched-bench's {k}": v for k, v in bound.items()}
        found[f"{parallel} greedy to llama-batched-bench"] = (
            found[f"{parallel} greedy"] / bound["in all"]
        )
    return found


def micro_batches(model: Path, rounds: int) -> Found:
    """Whether prompts are read faster in larger micro-batches."""
    found: Found = {}
    parallel = SIDE_BY_SIDE[-1]
    for size in (512, 1024, 2048):
        settings = EngineSettings(context=1024, batch=size, ubatch=size)
        with BatchEngine(model, settings, parallel) as engine:
            rates = [
                side_by_side(engine, peers.prompts(parallel, PROMPT, number))
                for number in range(-1, rounds)
            ]
        found[f"{parallel} side by side, micro-batches of {size}"] = statistics.median(rates[1:])
    return found


def serve(model: Path, rounds: int) -> Found:
    """llamacli serve beside llama-server, as bench.serve compares them."""
    command = [sys.executable, "-m", "bench.serve", "--model", str(model), "--runs", str(rounds)]
    command += ["--shared", "0", "--context", "8192", "--flash-attention", "auto", "load", "gaps"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    tell(ran.stdout)
    if ran.returncode:
        raise SystemExit(f"bench.serve ended with code {ran.returncode}")
    found: Found = {}
    for line in ran.stdout.splitlines():
        server, what, values = line.split(": ", 2)
        for value in values.split(", "):
            name, _, number = value.rpartition(" ")
            found[f"{what}: {name}, {server}"] = float(number)
    ours = [key for key in found if key.endswith(", llamacli")]
    for key in ours:
        whose = key.removesuffix(", llamacli")
        found[f"{whose}, ratio"] = found[key] / found[f"{whose}, llama-server"]
    return found


def drafts(model: Path, rounds: int) -> Found:
    """Rewriting a text that the model goes on with, some of whose tokens are others."""
    found: Found = {}
    with DraftingEngine(model, EngineSettings(context=4096)) as engine:
        size = engine.vocabulary.size
        text, speculation = walk(5000, FILE, size), engine.speculation
        for name, changed in CHANGES.items():
            edited = [
                (t + 13) % (size - SPECIALS) if i in changed else t for i, t in enumerate(text)
            ]
            rates: dict[str, list[float]] = {"plain": [], "drafts": []}
            answers = {}
            for number in range(-1, rounds):
                for way in rates:
                    engine.speculation = speculation if way == "drafts" else None
                    answers[way], seconds = rewriting(engine, [*edited, *text[:100]])
                    if number >= 0:
                        rates[way].append(answers[way].answer_tokens / seconds)
            drafted = answers["drafts"].drafted
            assert drafted is not None
            tell(f"{drafted.accepted} of {drafted.tokens} accepted, {drafted.evaluations} checks")
            medians = {way: statistics.median(values) for way, values in rates.items()}
            found |= {f"{name}, {way}": value for way, value in medians.items()}
            found[f"{name}, drafts to plain"] = medians["drafts"] / medians["plain"]
            same = answers["drafts"].tokens == answers["plain"].tokens
            found[f"{name}, same answer"] = float(same)
    return found


def rewriting(engine: Engine, prompt: list[int]) -> tuple[Result, float]:
    """The answer, and the seconds that it took after the prompt."""
    started = time.perf_counter()
    chunks = generate(engine, prompt, GREEDY, max_tokens=REWRITTEN)
    result = [chunk.result for chunk in chunks][-1]
    assert result is not None
    return result, time.perf_counter() - started - result.prefill_seconds


def imatrix(model: Path, _: int) -> Found:
    """An importance matrix beside llama-imatrix's."""
    from bench.imatrix import largest_difference, llama_imatrix, llamacli_imatrix

    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = Path(folder) / "theirs.gguf", Path(folder) / "ours.gguf"
        found = {"llamacli": llamacli_imatrix(model, CHUNKS, ours)}
        tell(f"llamacli {found['llamacli']:.0f} tokens/s, loading included")
        found["llama-imatrix"] = llama_imatrix(model, CHUNKS, theirs)
        found["largest difference"] = largest_difference(ours, theirs)
    found["ratio"] = found["llamacli"] / found["llama-imatrix"]
    return found


STAGES: dict[str, Callable[[Path, int], Found]] = {
    "decoding": decoding,
    "batch": batch,
    "serve": serve,
    "drafts": drafts,
    "micro_batches": micro_batches,
    "imatrix": imatrix,
}


def tell(*told: object) -> None:
    print(*told, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(json.dumps(STAGES[given.stage](given.model, given.rounds)))


if __name__ == "__main__":
    main()
