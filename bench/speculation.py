"""Drafts beside plain decoding, with a trained model: rewriting, free text, costs, what pays.

    python -m bench.speculation MODEL [--tokens N] [--rounds N] [--threads N] [--draft MODEL]

Rounds alternate, so that what slows the machine slows both. What is rewritten are texts of Python's
help, with one change; the model goes on with the second half of the copy, as well as it can. Free
text is what it says to a question. All are greedy; bench.foreseen has what drafts make of a copy
without a fault. Then what checking so many tokens at once costs here, and from which acceptance on
a draft pays by these costs, for models that draft at several costs; --plot draws that. bench.ngrams
has llama-server's own speculation on the same texts.
"""

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

from bench.checking import checking_costs
from llamacli.answer import Result, generate
from llamacli.engine import EngineSettings, SamplingSettings
from llamacli.prompt import encode_turns
from llamacli.speculate import MOST_ROWS, Costs, Drafting, DraftingEngine

LINES = 120
# Of Python's help: what is rewritten, and the one change.
CHANGES = {
    "import": ("customize", "adapt"),
    "try": ("inspects", "examines"),
    "with": ("encapsulated", "wrapped"),
}
QUESTION = "Explain in a few paragraphs how a bicycle stays upright, and what a rider does for it."
GREEDY = SamplingSettings(temperature=0)
DRAFTING = (0.0, 0.05, 0.1, 0.2, 0.35)  # costs of drafting a token


@dataclass(frozen=True)
class Measured:
    """Tokens a second, medians, and what became of the drafts."""

    plain: float
    drafted: float
    result: Result
    same: bool


def rewriting(engine: DraftingEngine, topic: str, lines: int) -> list[int]:
    """A text, and half of its copy, up to after where it differs, as the model's answer so far."""
    old, new = CHANGES[topic]
    text = topics[topic].split("\n")[:lines]
    given = "\n".join(text[: len(text) // 2])
    assert old in given
    asked = "\n".join([*text, "", f'Repeat this text, with "{new}" for "{old}".'])
    prompt = encode_turns(engine, [{"role": "user", "content": asked}])
    return prompt + engine.vocabulary.tokenize(given.replace(old, new) + "\n")


def measure(engine: DraftingEngine, prompt: list[int], tokens: int, rounds: int) -> Measured:
    """Plain decoding and drafts in turn, of the same prompt."""
    speculation = engine.speculation
    rates: dict[bool, list[float]] = {False: [], True: []}
    results: dict[bool, Result] = {}
    for number in range(-1, rounds):  # the first time what checking costs is learned
        for drafting in (False, True):
            engine.speculation = speculation if drafting else None
            result = [c.result for c in generate(engine, prompt, GREEDY, max_tokens=tokens)][-1]
            assert result is not None
            results[drafting] = result
            if number >= 0:
                rates[drafting].append(result.tokens_per_second)
    engine.speculation = speculation
    plain, drafted = (statistics.median(rates[one]) for one in (False, True))
    return Measured(plain, drafted, results[True], results[True].tokens == results[False].tokens)


def least_acceptance(costs: Costs, drafting: float) -> float | None:
    """The share of drafted tokens that must be accepted for a draft of any length to pay."""
    for percent in range(1, 100):
        rate = percent / 100
        for size in range(1, MOST_ROWS):
            cost = costs.of(size + 1) + drafting * size
            if (1 - rate ** (size + 1)) / (1 - rate) > cost:
                return rate
    return None


def plot(costs: Costs, path: Path) -> None:
    """Which share of drafted tokens must be accepted, by what drafting a token costs."""
    from matplotlib.figure import Figure

    at = [percent / 100 for percent in range(61)]
    least = [least_acceptance(costs, cost) for cost in at]
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(at, [100 if one is None else 100 * one for one in least])
    axes.set_xlabel("cost of drafting a token, in evaluations of the model")
    axes.set_ylabel("accepted, % of drafted tokens")
    axes.set_title("A draft pays above the line")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def tell(name: str, measured: Measured) -> None:
    drafted = measured.result.drafted
    assert drafted is not None
    print(
        f"{name}: plain {measured.plain:.1f} tokens/s, drafts {measured.drafted:.1f}, ratio "
        f"{measured.drafted / measured.plain:.2f}; {measured.result.answer_tokens} tokens, "
        f"{drafted.accepted} of {drafted.tokens} drafted accepted in {drafted.evaluations} checks; "
        f"{'the same tokens' if measured.same else 'other tokens from a tie on'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("model", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--lines", type=int, default=LINES)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--depth", type=int, default=512)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--flash-attention", choices=("auto", "on", "off"), default="auto")
    given = parser.parse_args()
    settings = EngineSettings(
        threads=given.threads, context=8192, flash_attention=given.flash_attention
    )
    began = time.perf_counter()
    with DraftingEngine(given.model, settings, Drafting(given.draft)) as engine:
        if engine.context_size < 8192:
            print(f"the context is {engine.context_size} tokens: a shorter file")
        prompts = {
            **{f"rewriting {name}": rewriting(engine, name, given.lines) for name in CHANGES},
            "free text": encode_turns(engine, [{"role": "user", "content": QUESTION}]),
        }
        for name, prompt in prompts.items():
            tell(name, measure(engine, prompt, given.tokens, given.rounds))
        known = checking_costs(engine, given.depth, 5.0)
        costs = Costs(known)
        print("checking at once, in evaluations of one:", end=" ")
        print(", ".join(f"{size}: {cost:.2f}" for size, cost in known.items()))
        for drafting in DRAFTING:
            least = least_acceptance(costs, drafting)
            shown = "never" if least is None else f"from {least:.0%} of drafted tokens accepted on"
            print(f"a draft at {drafting:.2f} of an evaluation a token pays {shown}")
        if given.plot is not None:
            plot(costs, given.plot)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
