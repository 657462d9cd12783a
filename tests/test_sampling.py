"""Choosing a token: the quick way gives what llama.cpp's samplers give."""

import math
import random
from collections.abc import Iterator

import numpy as np
import pytest

from llamacli.engine import (
    Engine,
    EngineSettings,
    SamplingSettings,
    chooser,
    common_prefix,
    is_sound,
    sampler_chain,
)
from llamacli.engine.sampling import (
    COLUMNS,
    MAX_LIKELIEST,
    MOST,
    PARTS,
    likeliest,
    likeliest_biased,
)
from llamacli.errors import UsageError
from tests.standins.checkpoint import tokenizer
from tests.standins.tiny import write_model

GREEDY = SamplingSettings(temperature=0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")
    with Engine(path, EngineSettings(context=512, threads=1, outputs=8)) as made:
        yield made


def test_the_likeliest_token_is_that_of_llama_cpp_s_greedy_sampler(engine: Engine) -> None:
    rng = random.Random(0)
    with sampler_chain(engine, GREEDY, 0) as chain:
        choose = chooser(engine, GREEDY, chain)
        sample = engine.library.llama_sampler_sample
        for _ in range(20):
            engine.keep(0)
            engine.decode_rows([rng.randrange(3, 700) for _ in range(8)])
            for row in range(8):
                assert choose(row) == sample(chain, engine.context_pointer, row)
            logits = engine.logits(3)
            logits[[40, 90, 300]] = logits.max() + 1  # the first of equal ones
            assert choose(3) == sample(chain, engine.context_pointer, 3) == 40


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Of a vocabulary that is large enough for its likeliest tokens to be looked for."""
    folder = tmp_path_factory.mktemp("wide")
    path = write_model(folder / "wide.gguf", tokenizer=tokenizer(PARTS * COLUMNS + 500))
    with Engine(path, EngineSettings(context=512, threads=1)) as made:
        yield made


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(temperature=0.7, top_k=50, top_p=0.9),
        SamplingSettings(temperature=3.0, top_k=1, top_p=1.0),
        SamplingSettings(temperature=2.0, top_k=200, top_p=0.99, min_p=0.01),
    ],
)
def test_of_the_likeliest_the_samplers_draw_what_they_draw_of_all(
    wide: Engine, settings: SamplingSettings
) -> None:
    """Token by token, with the same seed, whatever the logits are like."""
    assert settings.draws_of_top_k
    rng, sample = np.random.default_rng(0), wide.library.llama_sampler_sample
    wide.prefill([5, 6, 7])
    logits = wide.logits()
    with sampler_chain(wide, settings, 11) as ours, sampler_chain(wide, settings, 11) as theirs:
        choose = chooser(wide, settings, ours)
        drawn, found = [], 0
        for i in range(300):
            logits[:] = rng.standard_normal(len(logits)) * (0.1, 2, 30)[i % 3]
            if i % 5 == 0:
                logits[rng.integers(len(logits), size=2000)] = -np.inf
            few = likeliest(logits, settings.top_k)
            assert few is None or settings.top_k <= len(few) <= MOST
            found += few is not None
            drawn.append(choose(-1))
            assert drawn[-1] == sample(theirs, wide.context_pointer, -1)
        assert len(set(drawn)) > 200 < found


def test_the_likeliest_are_among_those_looked_at() -> None:
    rng = np.random.default_rng(1)
    for size in (PARTS * COLUMNS, PARTS * COLUMNS + 1, 32_000, 128_256):
        logits = rng.standard_normal(size).astype(np.float32)
        logits[-3:] = 9  # beyond the last whole part
        for count in (1, 50, MAX_LIKELIEST):
            tokens = likeliest(logits, count)
            assert tokens is not None and len(tokens) < 2 * PARTS * (count + 10)
            assert set(np.argsort(-logits)[:count]) <= set(tokens.tolist())
        assert likeliest(np.zeros(size, np.float32), 50) is None  # which one isn't decided here
    assert likeliest(logits[: PARTS * COLUMNS - 1], 50) is None
    assert likeliest(logits, MAX_LIKELIEST + 1) is None
    assert likeliest(np.full(9000, np.nan, np.float32), 50) is None


def test_penalties_and_temperatures_go_through_the_samplers(engine: Engine) -> None:
    assert GREEDY.is_greedy
    for settings in (
        SamplingSettings(temperature=0.1),
        SamplingSettings(temperature=0, repeat_penalty=1.1),
    ):
        assert not settings.is_greedy
    penalized = SamplingSettings(temperature=0, repeat_penalty=100.0)
    engine.prefill([5, 6, 7])
    likeliest = int(engine.logits().argmax())
    with sampler_chain(engine, penalized, 0, [likeliest]) as chain:
        assert chooser(engine, penalized, chain)(-1) != likeliest


@pytest.mark.parametrize("cuts", [(0, 0.9, 0.0), (200, 1.0, 0.0), (0, 1.0, 0.1), (50, 1.0, 0.0)])
@pytest.mark.parametrize("temperature", [1e-5, 1e-8, 1e-9, 1e-38, 1e-46])
def test_a_temperature_next_to_0_takes_the_likeliest(
    wide: Engine, temperature: float, cuts: tuple[int, float, float]
) -> None:
    """Logits over it are beyond what llama.cpp's samplers can sort, or a float32."""
    top_k, top_p, min_p = cuts
    settings = SamplingSettings(temperature, top_k, top_p, min_p)
    wide.prefill([5, 6, 7])
    wide.logits()[300] = 80
    with sampler_chain(wide, settings, 1) as chain:
        assert wide.library.llama_sampler_sample(chain, wide.context_pointer, -1) == 300
        assert chooser(wide, settings, chain)(-1) == 300


@pytest.mark.parametrize("value", [pytest.param(10**400, id="huge"), -1, math.nan, math.inf, True])
def test_settings_that_can_not_be_are_refused(value: float) -> None:
    for name in ("temperature", "top_k", "seed"):
        with pytest.raises(UsageError, match="give 0 to"):
            SamplingSettings(**{name: value})  # type: ignore[arg-type]
        assert not is_sound(name, value)


def test_rows_are_those_of_single_steps(engine: Engine) -> None:
    tokens = [9, 300, 12, 77, 5]
    engine.keep(0)
    engine.decode_rows(tokens)
    rows = [engine.logits(i).copy() for i in range(len(tokens))]
    assert engine.tokens == tokens
    engine.keep(0)
    for token, row in zip(tokens, rows, strict=True):
        engine.decode(token)
        assert abs(engine.logits() - row).max() < 0.02


def test_common_prefix_is_the_longest_one() -> None:
    rng = random.Random(1)
    for _ in range(3000):
        a = [rng.randrange(2) for _ in range(rng.randrange(20))]
        b = [*a[: rng.randrange(21)], *(rng.randrange(2) for _ in range(rng.randrange(6)))]
        pairs = zip(a, b, strict=False)
        expected = next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
        assert common_prefix(a, b) == common_prefix(tuple(b), a) == expected


def test_with_biases_the_likeliest_is_that_of_all_sums() -> None:
    """Also among equals, of which the first one is taken, and for a token that is named twice."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        logits = generator.integers(0, 6, 12).astype(np.float32)
        count = int(generator.integers(1, 5))
        tokens = generator.integers(0, 12, count).tolist()
        biases = list(zip(tokens, generator.integers(-5, 6, count).tolist(), strict=True))
        sums = logits.copy()
        for token, bias in biases:
            sums[token] += bias
        assert likeliest_biased(logits, biases) == int(sums.argmax())
