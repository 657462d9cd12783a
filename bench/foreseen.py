"""What drafts copied from a text make of answers that are known, by the costs of checking them.

    python -m bench.foreseen MODEL [--depth N] [--threads N] [--flash-attention on|off]

For each answer: its tokens by what evaluating them costs with drafts, in evaluations of one token,
as if a model said exactly that. What checking so many tokens at once costs is measured with MODEL,
which lends its vocabulary, too. The texts are modules of Python's library and its help: rewritten
with one name another, with words changed at random, and gone on with.
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


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--depth", type=int, default=2048)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--flash-attention", choices=("auto", "on", "off"), default="auto")
    given = parser.parse_args()
    settings = EngineSettings(
        context=given.depth + 2 * MOST_ROWS,
        threads=given.threads,
        outputs=MOST_ROWS,
        flash_attention=given.flash_attention,
    )
    with Engine(given.model, settings) as engine:
        costs = Costs(checking_costs(engine, given.depth, 5.0))
        texts = list(answers(engine.vocabulary))
    print("checking at once, in evaluations of one:", end=" ")
    print(", ".join(f"{size}: {cost:.2f}" for size, cost in costs.known.items()))
    for name, read, answer in texts:
        ratio, drafted = foreseen(read, answer, costs)
        print(
            f"{name}: {ratio:.2f} times plain decoding; {drafted.accepted} of {drafted.tokens} "
            f"drafted tokens accepted in {drafted.evaluations} checks, {len(answer)} tokens"
        )


if __name__ == "__main__":
    main()
