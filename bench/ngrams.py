"""Drafts copied from a text, in turn with llama-server's own speculation by n-grams.

    python -m bench.ngrams MODEL [--kinds KIND ...] [--tokens N] [--rounds N] [--threads N]

The texts are those that bench.speculation has rewritten, and its question. Right before each of
llama-server's answers comes ours, so that what slows the machine slows both. Each setting has a
process of its own a round: what a server remembers of an answer would foretell the same one again.
The prompts were read before, and their KV caches are restored. Rates are of the tokens after the
first one, which comes from the prompt's logits; an end token counts.
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from bench.llama_cpp_tools import tool
from bench.served import Served, started
from bench.speculation import CHANGES, GREEDY, LINES, QUESTION, rewriting
from llamacli.answer import generate
from llamacli.engine import EngineSettings
from llamacli.machine import physical_cores
from llamacli.prompt import encode_turns
from llamacli.speculate import DraftingEngine

CONTEXT = 8192
# llama-server's kinds: its options, the defaults first.
KINDS: dict[str, list[dict[str, int]]] = {
    "none": [{}],
    "ngram-simple": [{"size-n": n, "size-m": m} for n, m in ((12, 48), (4, 16), (12, 24), (4, 32))],
    "ngram-map-k": [{"size-n": n, "size-m": m} for n, m in ((12, 48), (4, 16))],
    "ngram-map-k4v": [{"size-n": n, "size-m": m} for n, m in ((12, 48), (4, 16))],
    "ngram-mod": [
        {"n-match": match, "n-min": least, "n-max": most}
        for match, least, most in ((24, 48, 64), (12, 4, 24), (4, 4, 16))
    ],
    "ngram-cache": [{}],
}
Rates = dict[tuple[str, str], list[tuple[float, float]]]  # (text, setting): theirs, ours


def commanded(model: Path, engine: DraftingEngine, kind: str, options: dict[str, int]) -> list[str]:
    """llama-server with a kind of speculation, and an engine's settings else."""
    settings = engine.settings
    command = [tool("llama-server"), "-m", model, "-c", CONTEXT, "-np", 1, "--spec-type", kind]
    command += ["-t", settings.threads or physical_cores(), "-fa", settings.flash_attention]
    for name, value in options.items():
        command += [f"--spec-{kind}-{name}", value]
    return [str(word) for word in command]


def theirs(server: Served, prompt: list[int], tokens: int) -> tuple[float, str]:
    """Tokens a second, and what became of the drafts."""
    asked = {"prompt": prompt, "n_predict": tokens, "temperature": 0}
    times = server.post("/completion", asked)["timings"]
    assert times["prompt_n"] == 1 or tokens == 1, "the KV cache wasn't restored"
    drafted = f"{times.get('draft_n_accepted', 0)} of {times.get('draft_n', 0)}"
    return times["predicted_per_second"], f"{drafted} accepted, {times['predicted_n']} tokens"


def ours(engine: DraftingEngine, prompt: list[int], tokens: int) -> tuple[float, str]:
    result = [chunk.result for chunk in generate(engine, prompt, GREEDY, max_tokens=tokens)][-1]
    assert result is not None and result.drafted is not None
    drawn = result.answer_tokens + (result.finish_reason == "stop")
    drafted = f"{result.drafted.accepted} of {result.drafted.tokens}"
    return (drawn - 1) / result.decode_seconds, f"{drafted} accepted, {drawn} tokens"


def shown(kind: str, options: dict[str, int]) -> str:
    return " ".join([kind, *(f"{name} {value}" for name, value in options.items())])


def measure(
    model: Path, texts: dict[str, list[int]], engines: dict[str, DraftingEngine],
    kinds: list[str], tokens: int, rounds: int,
) -> Rates:  # fmt: skip
    """Rounds of all settings."""
    rates: Rates = defaultdict(list)
    engine = next(iter(engines.values()))
    with tempfile.TemporaryDirectory() as folder:

        def run(kind: str, options: dict[str, int]) -> AbstractContextManager[Served]:
            command = [*commanded(model, engine, kind, options), "--slot-save-path", folder]
            return started("llama-server", lambda port: [*command, "--port", str(port)])

        with run("none", {}) as server:
            for name, prompt in texts.items():
                theirs(server, prompt, 1)
                server.post("/slots/0?action=save", {"filename": name})
        for name, prompt in texts.items():
            ours(engines[name], prompt, tokens)  # what checking costs is learned
        for _ in range(rounds):
            for kind in kinds:
                for options in KINDS[kind]:
                    with run(kind, options) as server:
                        for name, prompt in texts.items():
                            server.post("/slots/0?action=restore", {"filename": name})
                            mine, drafted = ours(engines[name], prompt, tokens)
                            other, other_drafted = theirs(server, prompt, tokens)
                            rates[name, shown(kind, options)].append((other, mine))
                            print(
                                f"{name}, {shown(kind, options)}: {other:.1f} tokens/s "
                                f"({other_drafted}); llamacli {mine:.1f} ({drafted})",
                                flush=True,
                            )
    return rates


def tell(rates: Rates, texts: list[str]) -> None:
    """By text: the best of llama-server's settings by its median, and ours beside it."""
    for name in texts:
        found = {setting: pairs for (text, setting), pairs in rates.items() if text == name}
        medians = {
            setting: statistics.median(theirs for theirs, _ in pairs)
            for setting, pairs in found.items()
        }
        best = max(medians, key=medians.__getitem__)
        all_ours = statistics.median(mine for pairs in found.values() for _, mine in pairs)
        ratio = statistics.median(mine / theirs for theirs, mine in found[best])
        print(
            f"{name}: llama-server's best {medians[best]:.1f} tokens/s ({best}), llamacli "
            f"{all_ours:.1f}; beside each other {ratio:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    settings = EngineSettings(threads=given.threads, context=CONTEXT)
    with ExitStack() as stack:

        def engine() -> DraftingEngine:
            return stack.enter_context(DraftingEngine(given.model, settings))

        engines = {name: engine() for name in (*CHANGES, "free text")}
        texts = {name: rewriting(engines[name], name, LINES) for name in CHANGES}
        asked = [{"role": "user", "content": QUESTION}]
        texts["free text"] = encode_turns(engines["free text"], asked)
        rates = measure(given.model, texts, engines, given.kinds, given.tokens, given.rounds)
        tell(rates, list(texts))


if __name__ == "__main__":
    main()
