"""How the next token is chosen: the settings for it, and llama.cpp's chain of samplers, or numpy
where that is quicker."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import byref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from llamacli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llamacli.engine.engine import Engine

CANDIDATE = [("id", "<i4"), ("logit", "<f4"), ("p", "<f4")]  # llama_token_data, as numpy has it
PARTS, COLUMNS = 8, 512
MOST = 4096  # tokens that are drawn of
MAX_SEED = (1 << 32) - 2  # llama.cpp takes 2^32 - 1 for "choose one"
MAX_LAST_N = 1 << 20
MAX_LIKELIEST = 256  # tokens that are looked for among all
# Logits over a temperature below it exceed what llama.cpp's samplers can sort, or a float32; the
# likeliest token has a probability of all but 1 there.
LEAST_TEMPERATURE = 1e-5

# What stands in for a key that the file doesn't have: temperature and top-p as Meta ships them with
# every Llama 3, top-k as transformers' own default, the others off.
DEFAULTS = {"temperature": 0.6, "top_k": 50, "top_p": 0.9, "min_p": 0.0, "repeat_penalty": 1.0}
WHOLE = ("top_k", "repeat_last_n", "seed")  # settings that are whole numbers
METADATA_KEYS = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repeat_penalty": "general.sampling.penalty_repeat",
}


@dataclass(frozen=True)
class SamplingSettings:
    """temperature 0, or below LEAST_TEMPERATURE, is greedy; top_k 0, top_p 1, min_p 0 and
    repeat_penalty 1 are off.

    The penalties weigh on tokens among the last repeat_last_n: repeat_penalty divides, presence
    and frequency_penalty are taken off, the latter as often as a token is there. logit_bias is
    (token, what is added to its logit). seed None draws a new one for each answer.
    """

    temperature: float = DEFAULTS["temperature"]
    top_k: int = int(DEFAULTS["top_k"])
    top_p: float = DEFAULTS["top_p"]
    min_p: float = DEFAULTS["min_p"]
    repeat_penalty: float = DEFAULTS["repeat_penalty"]
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0.0, 100.0)
        _check("top-k", self.top_k, 0, (1 << 31) - 1)
        _check("top-p", self.top_p, 0.0, 1.0)
        _check("min-p", self.min_p, 0.0, 1.0)
        _check("repeat-penalty", self.repeat_penalty, 0.01, 100.0)
        _check("repeat-last-n", self.repeat_last_n, 0, MAX_LAST_N)
        _check("presence-penalty", self.presence_penalty, -100.0, 100.0)
        _check("frequency-penalty", self.frequency_penalty, -100.0, 100.0)
        if self.seed is not None:
            _check("seed", self.seed, 0, MAX_SEED)

    @property
    def draws(self) -> bool:
        """Whether chance has a say."""
        return self.temperature >= LEAST_TEMPERATURE

    @property
    def penalizes(self) -> bool:
        changed = (self.repeat_penalty - 1.0, self.presence_penalty, self.frequency_penalty)
        return bool(self.repeat_last_n) and any(changed)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always chosen, once the biases are added."""
        return not (self.draws or self.penalizes)

    @property
    def draws_of_top_k(self) -> bool:
        """Whether one of the top_k likeliest tokens is drawn, whatever came before."""
        return self.draws and self.top_k > 0 and not (self.penalizes or self.logit_bias)

    @property
    def looks_for_likeliest(self) -> bool:
        """Whether few tokens, or one, are soon found to choose from."""
        return self.is_greedy or (self.draws_of_top_k and self.top_k <= MAX_LIKELIEST)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], **chosen: Any) -> Self:
        """The file's defaults where it has sound ones; chosen values that aren't None win."""
        own = {name: metadata.get(key) for name, key in METADATA_KEYS.items()}
        values: dict[str, Any] = {name: own[name] for name in own if is_sound(name, own[name])}
        values |= {name: value for name, value in chosen.items() if value is not None}
        return cls(**values)


def _check(name: str, value: float, least: float, most: float) -> None:
    if isinstance(value, bool) or not least <= value <= most:
        shown = (str(end) if isinstance(end, int) else f"{end:g}" for end in (least, most))
        raise UsageError(f"{name} is {value}; give {' to '.join(shown)}")


def is_sound(name: str, value: Any) -> bool:
    """Whether a value from a stranger's file is a number that the setting of that name can take."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if name in WHOLE and not isinstance(value, int):
        return False
    setting: dict[str, Any] = {name: value}
    try:
        SamplingSettings(**setting)
    except UsageError:
        return False
    return True


def choose_seed(settings: SamplingSettings) -> int:
    """The settings' seed, else a random one that can be shown and given again."""
    if settings.seed is not None:
        return settings.seed
    import secrets  # 3 ms that whoever only has settings can do without

    return secrets.randbelow(MAX_SEED + 1)


@contextmanager
def sampler_chain(
    engine: "Engine", settings: SamplingSettings, seed: int, prompt: Sequence[int] = ()
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


def chooser(engine: "Engine", settings: SamplingSettings, chain: Any) -> Callable[..., int]:
    """A function that chooses the token after a row of the last evaluation, -1 being its last.

    It takes the row's logits, too, of whoever has them. It gives what llama.cpp's chain gives of
    all logits, which takes 0.15 to 0.4 ms of 128,256. Where numpy is loaded the likeliest one is
    looked up, in 0.02 ms, and of a top-k the chain gets few likely ones alone, in 0.05.
    """
    library = engine.library

    def sample(row: int, _: "NDArray[np.float32] | None" = None) -> int:
        return int(library.llama_sampler_sample(chain, engine.context_pointer, row))

    def greedy(row: int, logits: "NDArray[np.float32] | None" = None) -> int:
        logits = engine.logits(row) if logits is None else logits
        return likeliest_biased(logits, settings.logit_bias)

    if "numpy" not in sys.modules:
        return sample
    if settings.is_greedy:
        return greedy
    if not settings.draws_of_top_k:
        return sample
    draw = drawing(library, chain)

    def choose(row: int, logits: "NDArray[np.float32] | None" = None) -> int:
        logits = engine.logits(row) if logits is None else logits
        tokens = likeliest(logits, settings.top_k)
        return sample(row) if tokens is None else draw(logits, tokens)

    return choose


def drawing(library: Any, chain: Any) -> Callable[..., int]:
    """A function that draws one of at most MOST tokens by logits of shape (vocabulary,) as the
    chain does, and accepts it. Making its memory anew would take longer than drawing."""
    import numpy as np

    held = (library.llama_token_data * MOST)()
    candidates = np.frombuffer(held, CANDIDATE)
    ids, values = candidates["id"], candidates["logit"]
    array = library.llama_token_data_array(held, 0, -1, False)
    reference = byref(array)
    apply, accept = library.llama_sampler_apply, library.llama_sampler_accept

    def draw(logits: "NDArray[np.float32]", tokens: "NDArray[np.int64]") -> int:
        array.size = len(tokens)
        array.selected, array.sorted = -1, False
        ids[: array.size], values[: array.size] = tokens, logits[tokens]
        apply(chain, reference)  # which sorts and cuts them where they are
        token = int(ids[array.selected])
        accept(chain, token)
        return token

    return draw


def likeliest_biased(logits: "NDArray[np.float32]", biases: Sequence[tuple[int, float]]) -> int:
    """The likeliest token by logits, float32 of shape (vocabulary,), once the biases are added."""
    greatest = int(logits.argmax())
    if any(bias > 0 or token == greatest for token, bias in biases):  # else it stays it
        logits = logits.copy()
        for token, bias in biases:
            logits[token] += bias
        greatest = int(logits.argmax())
    return greatest


def likeliest(logits: "NDArray[np.float32]", count: int) -> "NDArray[np.int64] | None":
    """Few tokens, at most MOST, among which the count likeliest are, and all as likely as these.

    logits are float32 of shape (vocabulary,). None where the vocabulary is too small, or count too
    large, to gain by it, where too many are as likely, and where logits are no numbers.

    The logits are folded: PARTS of them become their greatest one, of which lines of COLUMNS have a
    greatest one in each column; count columns have one that is at least the count-th greatest of
    these, so no token below it is among the count likeliest. What is left is found by few calls of
    numpy, which take longest: so the tokens have all that were folded together.
    """
    import numpy as np

    size = len(logits) // PARTS
    lines, whole = size // COLUMNS, size * PARTS
    if not lines or count > MAX_LIKELIEST:
        return None
    folded = logits[:whole].reshape(PARTS, size).max(axis=0)
    greatest = folded[: lines * COLUMNS].reshape(lines, COLUMNS).max(axis=0)
    greatest.partition(COLUMNS - count)
    places = (folded >= greatest[COLUMNS - count]).nonzero()[0]
    if not count <= len(places) < MOST // PARTS:
        return None
    tokens: NDArray[np.int64] = (places + np.arange(0, whole, size)[:, None]).ravel()
    rest = np.arange(whole, len(logits))
    return np.concatenate([tokens, rest]) if len(rest) else tokens


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
    engine: "Engine", settings: SamplingSettings, seed: int, prompt: Sequence[int]
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
    if not settings.draws:
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
