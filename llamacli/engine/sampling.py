"""How the next token is chosen: llama.cpp's chain of samplers, or numpy where that is quicker."""

import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import byref
from typing import TYPE_CHECKING, Any

from llamacli.engine.engine import Engine
from llamacli.engine.settings import MAX_LIKELIEST, MAX_SEED, SamplingSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CANDIDATE = [("id", "<i4"), ("logit", "<f4"), ("p", "<f4")]  # llama_token_data, as numpy has it
PARTS, COLUMNS = 8, 1024


def choose_seed(settings: SamplingSettings) -> int:
    """The settings' seed, else a random one that can be shown and given again."""
    return secrets.randbelow(MAX_SEED + 1) if settings.seed is None else settings.seed


@contextmanager
def sampler_chain(
    engine: Engine, settings: SamplingSettings, seed: int, prompt: Sequence[int] = ()
) -> Iterator[Any]:
    """A llama.cpp sampler, freed at the end: bias, penalties, temperature, top-k, top-p, min-p.

    The order is that of transformers, for which models' published settings are meant. The last
    tokens of prompt count as seen for the repeat penalty.
    """
    library = engine.library
    params = library.llama_sampler_chain_default_params()
    params.no_perf = True
    chain = library.llama_sampler_chain_init(params)
    try:
        for sampler in _samplers(engine, settings, seed, prompt):
            library.llama_sampler_chain_add(chain, sampler)  # which frees it with the chain
        yield chain
    finally:
        library.llama_sampler_free(chain)


def chooser(engine: Engine, settings: SamplingSettings, chain: Any) -> Callable[[int], int]:
    """A function that chooses the token after a row of the last evaluation, -1 being its last.

    It gives what llama.cpp's chain gives of all logits, which takes 0.15 to 0.4 ms of 128,256.
    Where numpy is loaded the likeliest one is looked up, in 0.02 ms, and of a top-k the chain gets
    the likeliest alone, in 0.06.
    """
    library = engine.library

    def sample(row: int) -> int:
        return int(library.llama_sampler_sample(chain, engine.context_pointer, row))

    if "numpy" not in sys.modules:
        return sample
    if settings.is_greedy:
        return lambda row: likeliest_biased(engine.logits(row), settings.logit_bias)
    if not settings.draws_of_top_k:
        return sample

    def choose(row: int) -> int:
        logits = engine.logits(row)
        tokens = likeliest(logits, settings.top_k)
        if tokens is None:
            return sample(row)
        token = sample_among(library, chain, logits, tokens)
        library.llama_sampler_accept(chain, token)
        return token

    return choose


def likeliest_biased(logits: "NDArray[np.float32]", biases: Sequence[tuple[int, float]]) -> int:
    """The likeliest token by logits, float32 of shape (vocabulary,), once the biases are added."""
    greatest = int(logits.argmax())
    if all(bias <= 0 and token != greatest for token, bias in biases):
        return greatest  # and stays it
    logits = logits.copy()
    for token, bias in biases:
        logits[token] += bias
    return int(logits.argmax())


def likeliest(logits: "NDArray[np.float32]", count: int) -> "NDArray[np.int64] | None":
    """Tokens among which the count likeliest are, with all that are as likely as the last of them.

    logits are float32 of shape (vocabulary,). None where the vocabulary is too small, or count too
    large, to gain by it, and where logits are no numbers.

    The logits are folded: PARTS of them become their greatest one, of which rows of COLUMNS have a
    greatest one in each column; count columns have one that is at least the count-th greatest of
    these, so no token below it is among the count likeliest.
    """
    import numpy as np

    size = len(logits) // PARTS
    rows, whole = size // COLUMNS, size * PARTS
    if not rows or count > MAX_LIKELIEST:
        return None
    folded = logits[:whole].reshape(PARTS, size).max(axis=0)
    greatest = folded[: rows * COLUMNS].reshape(rows, COLUMNS).max(axis=0)
    least = np.partition(greatest, COLUMNS - count)[COLUMNS - count]
    places = np.flatnonzero(folded >= least)
    tokens = (places + size * np.arange(PARTS)[:, None]).ravel()
    rest = whole + np.flatnonzero(logits[whole:] >= least)
    tokens = np.concatenate([tokens[logits[tokens] >= least], rest])
    return tokens if len(tokens) >= count else None


def sample_among(library: Any, chain: Any, logits: "NDArray[np.float32]", tokens: Any) -> int:
    """One of tokens, an array of ids, as llama.cpp's chain of samplers draws it; not accepted."""
    import numpy as np

    candidates = np.zeros(len(tokens), CANDIDATE)
    candidates["id"], candidates["logit"] = tokens, logits[tokens]
    data = (library.llama_token_data * len(tokens)).from_buffer(candidates)
    array = library.llama_token_data_array(data, len(tokens), -1, False)
    library.llama_sampler_apply(chain, byref(array))
    return int(array.data[array.selected].id)


def _samplers(
    engine: Engine, settings: SamplingSettings, seed: int, prompt: Sequence[int]
) -> Iterator[Any]:
    library, vocabulary = engine.library, engine.vocabulary
    if settings.logit_bias:
        biases = (library.llama_logit_bias * len(settings.logit_bias))(*settings.logit_bias)
        yield library.llama_sampler_init_logit_bias(vocabulary.size, len(biases), biases)
    if settings.penalizes:
        sampler = library.llama_sampler_init_penalties(
            vocabulary.size,
            settings.repeat_last_n,
            settings.repeat_penalty,
            settings.frequency_penalty,
            settings.presence_penalty,
        )
        for token in prompt[-settings.repeat_last_n :]:
            library.llama_sampler_accept(sampler, token)
        yield sampler
    if settings.temperature == 0:
        yield library.llama_sampler_init_greedy()
        return
    yield library.llama_sampler_init_temp(settings.temperature)
    if settings.top_k:
        yield library.llama_sampler_init_top_k(settings.top_k)
    if settings.top_p < 1:
        yield library.llama_sampler_init_top_p(settings.top_p, 1)
    if settings.min_p > 0:
        yield library.llama_sampler_init_min_p(settings.min_p, 1)
    yield library.llama_sampler_init_dist(seed)
