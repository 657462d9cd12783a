"""What drafts copied from a text make of answers that are known, by the costs of checking them.

    python -m bench.foreseen MODEL [--depth N] [--threads N] [--flash-attention on|off]
        [--costs TOKENS:COST …]

For each answer: its tokens by what evaluating them costs with drafts, in evaluations of one token,
as if a model said exactly that; and the same with the drafts that llama.cpp's ngram-simple makes,
at the best of some settings for each. What checking so many tokens at once costs is measured with
MODEL, which lends its vocabulary, too, unless --costs tells it. The texts are modules of Python's
library and its help: rewritten with one name another, with words changed at random, and gone on
with.
"""

import argparse
import inspect
import queue
import random
import re
import shlex
import textwrap
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType

from bench.checking import checking_costs
from llamacli.engine import Engine, EngineSettings, Vocabulary
from llamacli.speculate import MOST_ROWS, Costs, Drafted, Drafts
from llamacli.speculate.costs import LEARNED

LINES, TOKENS = 300, 600
RENAMED: tuple[tuple[ModuleType, str, str], ...] = (
    (queue, "maxsize", "capacity"),
    (textwrap, "width", "columns"),
    (shlex, "self", "this"),
)
CHANGED = (0.0, 0.15, 0.4)  # shares of words
# Of llama.cpp's n-grams: how many tokens must be the same, and how many are drafted then.
NGRAMS = ((12, 48), (12, 24), (4, 32), (4, 20), (4, 16), (3, 12))


def answers(vocabulary: Vocabulary) -> Iterator[tuple[str, list[int], list[int]]]:
    """What it is, the tokens that are read, and those that are answered."""
    for module, old, new in RENAMED:
        text = "\n".join(inspect.getsource(module).split("\n")[:LINES])
        copy = re.sub(rf"\b{old}\b", new, text)
        given = f"{text}\n\n# The same with `{old}` renamed to `{new}`:\n\n"
        yield (
            f"{module.__name__}.py with `{old}` renamed",
            vocabulary.tokenize(given),
            vocabulary.tokenize(copy)[:TOKENS],
        )
    words, rng = topics["with"].split(" "), random.Random(1)
    for share in CHANGED:
        others = [rng.choice(words) if rng.random() < share else word for word in words]
        yield (
            f"prose with {share:.0%} of its words changed",
            vocabulary.tokenize(" ".join(words)),
            vocabulary.tokenize(" ".join(others))[:TOKENS],
        )
    source = vocabulary.tokenize(inspect.getsource(argparse))
    yield "argparse.py, gone on with", source[:6000], source[6000:7500]
    other = vocabulary.tokenize(topics["try"])
    yield "other prose", vocabulary.tokenize(topics["import"]), other[:TOKENS]


def foreseen(read: list[int], answer: list[int], costs: Costs) -> tuple[float, Drafted]:
    """Tokens a cost, where a model says that answer; lengths are chosen by what a run learns."""
    known = Costs({size: costs.of(size) for size in LEARNED})
    drafts, waiting, cost = Drafts(), list[int](), 0.0
    drafts.lookup.extend(read)
    for number, token in enumerate(answer, 1):
        drafts.lookup.extend((token,))
        if waiting and waiting[0] == token:
            del waiting[0]
            continue
        drafts.accept(len(drafts.proposed) - len(waiting))
        waiting = list(drafts.copied(min(len(answer) - number, MOST_ROWS - 1), known))
        cost += costs.of(len(waiting) + 1)
    return len(answer) / cost, drafts.drafted


def by_ngrams(read: list[int], answer: list[int], costs: Costs, same: int, most: int) -> float:
    """Tokens a cost with the drafts of llama.cpp's ngram-simple (common/ngram-map.cpp).

    They are the tokens after the latest same ones, no fewer than those; the last token of all isn't
    copied yet.
    """
    tokens, places, indexed, cost, at = [*read], dict[tuple[int, ...], int](), same, 0.0, 0
    while at < len(answer):
        tokens.append(answer[at])
        at += 1
        last = len(tokens) - 1
        for end in range(indexed, last):
            places[tuple(tokens[end - same : end])] = end
        indexed = max(indexed, last)
        place = places.get(tuple(tokens[-same:]))
        drafted = tokens[place : min(place + most, last)] if place is not None else []
        drafted = drafted[: len(answer) - at] if len(drafted) >= same else []
        cost += costs.of(len(drafted) + 1)
        for token in drafted:
            if token != answer[at]:
                break
            tokens.append(token)
            at += 1
    return len(answer) / cost


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--depth", type=int, default=2048)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--flash-attention", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--costs", nargs="+", metavar="TOKENS:COST", help="as printed")
    given = parser.parse_args()
    settings = EngineSettings(
        context=given.depth + 2 * MOST_ROWS,
        threads=given.threads,
        outputs=MOST_ROWS,
        flash_attention=given.flash_attention,
    )
    with Engine(given.model, settings) as engine:
        if given.costs:
            pairs = (one.split(":") for one in given.costs)
            costs = Costs({int(size): float(cost) for size, cost in pairs})
        else:
            costs = Costs(checking_costs(engine, given.depth, 5.0))
        texts = list(answers(engine.vocabulary))
    print("checking at once, in evaluations of one:", end=" ")
    print(", ".join(f"{size}: {cost:.2f}" for size, cost in costs.known.items()))
    for name, read, answer in texts:
        ratio, drafted = foreseen(read, answer, costs)
        best = max((by_ngrams(read, answer, costs, *one), *one) for one in NGRAMS)
        print(
            f"{name}: {ratio:.2f} times plain decoding; {drafted.accepted} of {drafted.tokens} "
            f"drafted tokens accepted in {drafted.evaluations} checks, {len(answer)} tokens; "
            f"{best[0]:.2f} by n-grams of {best[1]} and {best[2]}"
        )


if __name__ == "__main__":
    main()
