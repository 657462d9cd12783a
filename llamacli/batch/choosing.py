"""A token for each answer of a batch whose logits are there."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

from llamacli.batch.engine import MANY, BatchEngine
from llamacli.batch.job import Running
from llamacli.errors import LlamacliError

AT_ONCE = 4  # of them that one thread chooses at least: handing it over costs as much as choosing

Ready = Sequence[tuple[Running, int]]  # those that are up to date, and the rows of their logits


def choose(engine: BatchEngine, ready: Ready) -> list[int | LlamacliError]:
    """A token each. Of many, several threads choose where that takes longer than handing them
    over, which looking for the likeliest ones doesn't: samplers of all logits are C, which lets
    go of Python's lock, and none knows of another."""
    choosers = engine.choosers
    quick = all(one.is_unconstrained and one.job.sampling.looks_for_likeliest for one, _ in ready)
    if choosers is None or len(ready) < MANY or quick:
        return _choose_some(engine, ready, 0)
    outputs = [0, *accumulate(1 + len(running.proposed) for running, _ in ready)]
    engine.all_logits(outputs[-1])  # what is done once an evaluation isn't left to several
    size = max(-(-len(ready) // engine.threads), AT_ONCE)
    starts = range(0, len(ready), size)
    shares = [ready[at : at + size] for at in starts]
    parts = choosers.map(partial(_choose_some, engine), shares, [outputs[at] for at in starts])
    return [token for part in parts for token in part]


def draw(engine: BatchEngine, running: Running, row: int) -> int | LlamacliError:
    """A token by the logits of that row."""
    if running.is_unconstrained:
        return running.choose(row)
    assert running.constraint is not None
    try:
        return running.constraint.choose(running.chain, engine.logits(row), running.answer.left)
    except LlamacliError as error:
        return error


def _choose_some(engine: BatchEngine, ready: Ready, first: int) -> list[int | LlamacliError]:
    """A token each, whose logits are those from first on."""
    if any(one.proposed or not one.is_unconstrained for one, _ in ready) or not ready:
        return [draw(engine, running, row) for running, row in ready]
    logits = engine.all_logits(first + len(ready))[first:]
    if all(one.job.sampling.is_plainly_greedy for one, _ in ready):
        return [*logits.argmax(axis=1).tolist()]
    return [one.choose(row, of) for (one, row), of in zip(ready, logits, strict=True)]
