"""The few tokens of a vocabulary that llama.cpp's samplers need to look at, found in the logits."""

from ctypes import POINTER, byref, cast
from typing import Any

import numpy as np
from numpy.typing import NDArray

CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])  # llama_token_data
COLUMNS = 1024


def likeliest(logits: NDArray[np.float32], count: int) -> NDArray[np.int64] | None:
    """Tokens among which the count likeliest are, with all that are as likely as the last of them.

    logits are float32 of shape (vocabulary,). None where the vocabulary is too small, or count too
    large, to gain by it, and where logits are no numbers.

    As rows of COLUMNS, the logits have a greatest one in each column; count columns have one that
    is at least the count-th greatest of these, so no token below it is among the count likeliest.
    """
    rows = len(logits) // COLUMNS
    if rows < 4 or count > COLUMNS // 4:
        return None
    greatest = logits[: rows * COLUMNS].reshape(rows, COLUMNS).max(axis=0)
    least = np.partition(greatest, COLUMNS - count)[COLUMNS - count]
    tokens = np.flatnonzero(logits >= least)
    return tokens if len(tokens) >= count else None


def sample_among(library: Any, chain: Any, logits: NDArray[np.float32], tokens: Any) -> int:
    """One of tokens, an array of ids, as llama.cpp's chain of samplers draws it; not accepted."""
    candidates = np.zeros(len(tokens), CANDIDATE)
    candidates["id"], candidates["logit"] = tokens, logits[tokens]
    data = cast(candidates.ctypes.data, POINTER(library.llama_token_data))
    array = library.llama_token_data_array(data, len(tokens), -1, False)
    library.llama_sampler_apply(chain, byref(array))
    return int(array.data[array.selected].id)
