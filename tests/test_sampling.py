"""Choosing a token: the quick way gives what llama.cpp's samplers give."""

import random
from collections.abc import Iterator

import pytest

from llamacli.engine import (
    Engine,
    EngineSettings,
    SamplingSettings,
    chooser,
    common_prefix,
    sampler_chain,
)
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


def test_penalties_and_temperatures_go_through_the_samplers(engine: Engine) -> None:
    assert GREEDY.is_plainly_greedy
    for settings in (
        SamplingSettings(temperature=0.1),
        SamplingSettings(temperature=0, repeat_penalty=1.1),
    ):
        assert not settings.is_plainly_greedy
    penalized = SamplingSettings(temperature=0, repeat_penalty=100.0)
    engine.prefill([5, 6, 7])
    likeliest = int(engine.logits().argmax())
    with sampler_chain(engine, penalized, 0, [likeliest]) as chain:
        assert chooser(engine, penalized, chain)(-1) != likeliest


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
