"""A small model of the same vocabulary that drafts what a large one is likely to say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacli.engine import Engine
from llamacli.errors import UsageError
from llamacli.gguf import GGUFFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOKENS = "tokenizer.ggml.tokens"
LEAST_PROBABILITY = 0.4  # of a drafted token; a less likely one ends the draft


@dataclass
class DraftModel:
    """cost is that of drafting a token, in evaluations of one by the model that checks them."""

    engine: Engine
    cost: float

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        """The likeliest tokens after those, one after the other, as long as they are likely."""
        drafted: list[int] = []
        most = min(most, self.engine.context_size - len(tokens))
        if most < 1:
            return drafted
        self.engine.prefill(tokens)
        while True:
            token = likely_token(self.engine.logits())
            if token is None:
                return drafted
            drafted.append(token)
            if len(drafted) == most or token in self.engine.vocabulary.end_tokens:
                return drafted
            self.engine.decode(token)


def likely_token(logits: "NDArray[np.float32]") -> int | None:
    """The likeliest token by logits of shape (vocabulary,), None where it is unlikely, too."""
    import numpy as np

    token = int(logits.argmax())
    probability = 1 / float(np.exp(logits - logits[token]).sum())
    return token if probability >= LEAST_PROBABILITY else None


def drafting_cost(draft: GGUFFile, checked: GGUFFile) -> float:
    """Decoding reads all weights: as one file's to the other's."""
    return draft.weights_nbytes / checked.weights_nbytes


def check_same_tokens(draft: GGUFFile, checked: GGUFFile) -> None:
    """Compare two vocabularies token by token. Raises UsageError naming the first difference."""
    if draft.raw(TOKENS) == checked.raw(TOKENS):
        return
    theirs, ours = draft.strings(TOKENS), checked.strings(TOKENS)
    at = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), None)
    told = (
        f"one has {len(theirs)} tokens, the other {len(ours)}"
        if at is None
        else f"token {at} is {theirs[at]!r} in one and {ours[at]!r} in the other"
    )
    raise UsageError(
        f"{draft.path.name} can't draft for {checked.path.name}: {told}; "
        "a draft model needs the same vocabulary"
    )
