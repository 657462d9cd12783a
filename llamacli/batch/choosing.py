"""A token for each answer of a batch whose logits are there."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llamacli.batch.engine import MANY, BatchEngine
from llamacli.batch.job import Running
from llamacli.errors import LlamacliError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Logits = NDArray[np.float32]

AT_ONCE = 4  # of them that one thread chooses at least: handing it over costs as much as choosing

Ready = Sequence[tuple[Running, int]]  # those that are up to date, and the rows of their logits


def choose(engine: BatchEngine, ready: Ready, logits: "Logits") -> list[int | LlamacliError]:
    """A token each, by logits of shape (rows, vocabulary), or what was wrong.

    Of many, several threads choose where that takes longer than handing them over, which looking
    for the likeliest ones doesn't: samplers of all logits are C, which lets go of Python's lock,
    and none knows of another."""

    def some(share: Ready) -> list[int | LlamacliError]:
        return [draw(running, row, logits) for running, row in share]

    if engine.choosers is None or len(ready) < MANY or all(one.is_quick for one, _ in ready):
        return some(ready)
    size = max(-(-len(ready) // engine.threads), AT_ONCE)
    shares = [ready[at : at + size] for at in range(0, len(ready), size)]
    return [token for part in engine.choosers.map(some, shares) for token in part]


def draw(running: Running, row: int, logits: "Logits") -> int | LlamacliError:
    """A token by the logits of that row, or what was wrong."""
    constraint = running.answer.constraint
    if constraint is None or constraint.free:
        return running.choose(row, logits[row])
    try:
        return constraint.choose(running.chain, logits[row], running.answer.left)
    except LlamacliError as error:
        return error
