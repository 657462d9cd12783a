"""Saved KV caches: what comes back is what was saved, and nothing else ever reaches llama.cpp."""

import hashlib
import random
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from llamacli.engine import model as model_module
from llamacli.engine.engine import Engine
from llamacli.engine.kv_state import (
    DIGEST,
    MAGIC,
    START,
    Unusable,
    restore,
    save,
    saved_tokens,
    state_key,
)
from llamacli.engine.settings import EngineSettings
from llamacli.errors import InvalidModelError
from tests.standins.tiny import write_model
from tests.systems import needs_replacing, needs_signals

TOKENS = list(range(3, 43))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(params=["on", "off"])
def engine(path: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Without flash attention llama.cpp keeps values transposed."""
    with Engine(path, EngineSettings(threads=1, flash_attention=request.param)) as made:
        yield made


def test_restored_state_gives_the_same_logits(engine: Engine, tmp_path: Path) -> None:
    engine.prefill(TOKENS)
    engine.decode(7)
    expected = engine.logits().copy()
    engine.keep(len(TOKENS))
    save(engine, tmp_path / "state")
    engine.prefill([9, 9, 9])
    assert restore(engine, tmp_path / "state") == len(TOKENS)
    assert engine.tokens == TOKENS
    engine.decode(7)
    assert np.array_equal(engine.logits(), expected)


def test_cells_out_of_order_come_back(engine: Engine, tmp_path: Path) -> None:
    """Rewinding and going on leaves cells in another order than their positions'."""
    engine.prefill(TOKENS)
    engine.keep(10)
    engine.prefill([*TOKENS[:10], *range(100, 110)])
    save(engine, tmp_path / "state")
    tokens = list(engine.tokens)
    assert restore(engine, tmp_path / "state") == len(tokens) and engine.tokens == tokens


def test_tokens_can_be_read_alone(engine: Engine, tmp_path: Path) -> None:
    engine.prefill(TOKENS)
    save(engine, tmp_path / "state")
    assert saved_tokens(tmp_path / "state", state_key(engine)) == TOKENS
    with pytest.raises(Unusable, match="another model"):
        saved_tokens(tmp_path / "state", "other")


def test_nothing_else_stays_in_the_folder(engine: Engine, tmp_path: Path) -> None:
    engine.prefill(TOKENS)
    save(engine, tmp_path / "new" / "state")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["state"]


@needs_replacing
def test_a_file_that_replaced_the_loaded_one_gets_none_of_its_states(tmp_path: Path) -> None:
    """A chat is open, its model's file is converted anew: what it saves is the old weights'."""
    path = write_model(tmp_path / "model.gguf")
    other = write_model(tmp_path / "other.gguf", seed=1)
    settings = EngineSettings(threads=1, device="cpu")
    with Engine(path, settings) as old:
        old.prefill(TOKENS)
        other.replace(path)
        save(old, tmp_path / "state")
        assert restore(old, tmp_path / "state") == len(TOKENS)
    with Engine(path, settings) as new, pytest.raises(Unusable, match="another model"):
        restore(new, tmp_path / "state")


@needs_replacing
@pytest.mark.parametrize("when", ["before llama.cpp reads it", "before its vocabulary is read"])
def test_a_file_replaced_while_it_is_loaded_is_refused(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What llama.cpp reads is what was checked, or it isn't used."""
    path = write_model(tmp_path / "model.gguf")
    other = write_model(tmp_path / "other.gguf", seed=1)
    load, first = model_module.load_model, when.startswith("before llama.cpp")

    def replaced(*arguments: Any, **options: Any) -> Any:
        if first:
            other.replace(path)
        model = load(*arguments, **options)
        if not first:
            other.replace(path)
        return model

    monkeypatch.setattr(model_module, "load_model", replaced)
    with pytest.raises(InvalidModelError, match="replaced or changed"):
        Engine(path, EngineSettings(threads=1, device="cpu"))


def test_another_model_is_refused(engine: Engine, tmp_path: Path) -> None:
    engine.prefill(TOKENS)
    save(engine, tmp_path / "state")
    other = write_model(tmp_path / "other.gguf", seed=1)
    with Engine(other, engine.settings) as second, pytest.raises(Unusable, match="another model"):
        restore(second, tmp_path / "state")


def test_a_shorter_context_is_refused(engine: Engine, path: Path, tmp_path: Path) -> None:
    engine.prefill(TOKENS)
    save(engine, tmp_path / "state")
    flash = engine.settings.flash_attention
    settings = EngineSettings(context=20, threads=1, flash_attention=flash)
    with Engine(path, settings) as small, pytest.raises(Unusable, match="the context"):
        small_enough = small.context_size < len(TOKENS)
        assert small_enough
        restore(small, tmp_path / "state")


@pytest.mark.parametrize("sealed", [False, True])
def test_damage_is_refused(engine: Engine, tmp_path: Path, sealed: bool) -> None:
    """Flipped and missing bytes; where the hash is made to fit, all but the values' own bytes."""
    engine.prefill(TOKENS)
    save(engine, tmp_path / "state")
    good = (tmp_path / "state").read_bytes()
    (header,) = struct.unpack_from("<Q", good, START)
    fields = START + 8 + header + 8, START + 8 + header + 16 + 12 * len(TOKENS) + 20
    generator = random.Random(0)
    for i in range(200):
        bad = bytearray(good)
        if i % 4 == 0:
            del bad[generator.randrange(len(bad)) :]
        else:
            bad[generator.randrange(*fields)] ^= 1 << generator.randrange(8)
        if sealed:
            bad[len(MAGIC) : START] = hashlib.sha256(bad[START:]).digest()
        if sealed and len(bad) == len(good) and _only_sequence_ids_differ(good, bad, fields[0]):
            continue
        (tmp_path / "state").write_bytes(bad)
        with pytest.raises(Unusable):
            restore(engine, tmp_path / "state")
        assert engine.tokens == []
    engine.prefill(TOKENS)


def _only_sequence_ids_differ(good: bytes, bad: bytes, start: int) -> bool:
    """llama.cpp reads each cell's sequence id and makes nothing of it."""
    different = [i for i, (a, b) in enumerate(zip(good, bad, strict=True)) if a != b and i > START]
    first = start + 8
    return all(i >= first and (i - first) % 12 >= 8 for i in different)


def test_missing_is_told(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="No such file"):
        restore(engine, tmp_path / "none")


assert hashlib.sha256().digest_size == DIGEST


@needs_signals
def test_no_interrupt_is_lost_in_llama_cpps_log(path: Path, tmp_path: Path) -> None:
    """A handler that raises inside of a callback from C is ignored: none may be there then."""
    handlers: list[Any] = []

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_qualname.startswith("_log_callback."):
            handlers.append(signal.getsignal(signal.SIGINT))

    sys.setprofile(look)
    try:
        with Engine(path, EngineSettings(threads=1)) as engine:
            engine.prefill(TOKENS)
            save(engine, tmp_path / "state")
            restore(engine, tmp_path / "state")
            engine.make_room(engine.context_size)
            engine.decode(7)
            engine.reconfigure(EngineSettings(threads=1, context=64))
    finally:
        sys.setprofile(None)
    assert handlers and signal.default_int_handler not in handlers
