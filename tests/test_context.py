"""Changing an engine's context is all or nothing: failures and signals leave what was there."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacli.answer import interrupts
from llamacli.engine import Engine, EngineSettings
from llamacli.errors import DoesNotFitError, LlamacliError
from tests.standins.tiny import write_model

ROOM = 64  # tokens before the KV cache grows
TOKENS = list(range(3, 43))
LONG = [*TOKENS, *range(100, 150)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def engine(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr("llamacli.engine.engine.FIRST_ROOM", ROOM)
    with Engine(path, EngineSettings(context=512, threads=1, device="cpu")) as made:
        made.prefill(TOKENS)
        yield made


@pytest.fixture
def expected(path: Path) -> Any:
    """The logits after LONG, and after one token more."""
    with Engine(path, EngineSettings(context=512, threads=1, device="cpu")) as plain:
        plain.prefill(TOKENS)
        plain.prefill(LONG)
        return plain.logits().copy()


class Refusing:
    """llama_init_from_model that gives no context so many times from a call on."""

    def __init__(self, engine: Engine, times: int) -> None:
        self.make, self.left = engine.library.llama_init_from_model, times

    def __call__(self, *arguments: Any) -> Any:
        self.left -= 1
        return None if self.left >= 0 else self.make(*arguments)


def test_a_failed_growth_leaves_all_as_it_was(
    engine: Engine, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.library, "llama_init_from_model", Refusing(engine, 1))
    with pytest.raises(DoesNotFitError, match="context of 512 tokens can't be made"):
        engine.prefill(LONG)
    assert engine.tokens == TOKENS
    assert engine.prefill(LONG) == len(TOKENS)  # memory is there now
    assert np.array_equal(engine.logits(), expected)


def test_a_growth_that_fails_while_decoding_leaves_the_answer(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in range(ROOM - len(TOKENS)):
        engine.decode(token)
    held = list(engine.tokens)
    monkeypatch.setattr(engine.library, "llama_init_from_model", Refusing(engine, 1))
    with pytest.raises(DoesNotFitError):
        engine.decode(7)
    assert engine.tokens == held
    engine.decode(7)
    assert engine.tokens == [*held, 7] and np.isfinite(engine.logits()).all()


def test_without_any_context_every_use_is_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where not even the former one can be had again, freed memory isn't touched."""
    monkeypatch.setattr(engine.library, "llama_init_from_model", Refusing(engine, 2))
    with pytest.raises(DoesNotFitError):
        engine.prefill(LONG)
    for use in (
        lambda: engine.prefill(TOKENS),
        lambda: engine.prefill(LONG),
        lambda: engine.decode(7),
        lambda: engine.keep(0),
        lambda: engine.logits(),
        lambda: engine.logit(0),
        lambda: engine.sequence_state(),
        lambda: engine.context_pointer,
    ):
        with pytest.raises(LlamacliError, match="load it again"):
            use()


def test_a_failed_reconfiguration_leaves_the_former_settings(
    engine: Engine, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.library, "llama_init_from_model", Refusing(engine, 1))
    with pytest.raises(DoesNotFitError):
        engine.reconfigure(EngineSettings(context=256, threads=1, ubatch=32))
    assert (engine.context_size, engine.settings.ubatch, engine.tokens) == (512, 512, [])
    engine.prefill(TOKENS)
    engine.prefill(LONG)
    assert np.array_equal(engine.logits(), expected)


def test_a_cache_that_can_not_be_moved_is_empty(
    engine: Engine, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(engine.library, "llama_state_seq_set_data", lambda *_: 0)
        with pytest.raises(LlamacliError, match="can't move its KV cache"):
            engine.prefill(LONG)
    assert engine.tokens == []
    engine.prefill(TOKENS)
    engine.prefill(LONG)
    assert np.array_equal(engine.logits(), expected)


def test_after_a_reconfiguration_as_many_rows_can_be_had_as_it_says(engine: Engine) -> None:
    engine.decode_rows([5])
    engine.reconfigure(EngineSettings(context=256, threads=1, outputs=4))
    engine.decode_rows([5, 6, 7, 8])
    assert engine.tokens == [5, 6, 7, 8]


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_while_the_context_grows(
    engine: Engine, expected: Any, monkeypatch: pytest.MonkeyPatch, signals: int
) -> None:
    """The second one is delivered at once: after the change, not in its midst."""
    make = engine.library.llama_init_from_model

    def interrupted_make(*arguments: Any) -> Any:
        for _ in range(signals):
            signal.raise_signal(signal.SIGINT)
        return make(*arguments)

    monkeypatch.setattr(engine.library, "llama_init_from_model", interrupted_make)
    with pytest.raises(KeyboardInterrupt), interrupts() as arrived:
        engine.prefill(LONG, interrupted=lambda: bool(arrived))
    monkeypatch.undo()
    assert engine.tokens == TOKENS
    assert engine.prefill(LONG) == len(TOKENS)
    assert np.array_equal(engine.logits(), expected)


def test_a_closed_engine_says_so(engine: Engine) -> None:
    engine.close()
    assert engine.closed
    with pytest.raises(LlamacliError, match="load it again"):
        engine.prefill(TOKENS)
