"""The KV cache beside a session: used where it fits, told where it doesn't, never trusted."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llamacli.chat.conversation import assistant, user
from llamacli.chat.saved import create, restore_cache, resume, save_cache
from llamacli.chat.turns import ChatSession
from llamacli.engine.engine import Engine
from llamacli.engine.sampling import SamplingSettings
from llamacli.engine.settings import EngineSettings
from llamacli.errors import InvalidModelError
from llamacli.repl.saved import continue_log
from llamacli.repl.state import Repl
from tests.saved import HEAD, file_of, refuse, reopened, saved
from tests.standins.tiny import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def engine(model: Path) -> Iterator[Engine]:
    with Engine(model, EngineSettings(context=256, threads=1)) as loaded:
        yield loaded


def talk(engine: Engine, *questions: str) -> ChatSession:
    """A saved chat named one, its KV cache beside it, and the engine's cache empty again."""
    log = create("one", HEAD, refuse)
    chat = ChatSession(engine, SamplingSettings(temperature=0), max_tokens=8, record=log.record)
    for question in questions:
        list(chat.send(question))
    assert save_cache(engine, log.name) is None
    log.close()
    engine.keep(0)
    return chat


def go_on(engine: Engine) -> tuple[ChatSession, str | None]:
    session = reopened()
    sampling = SamplingSettings(temperature=0)
    chat = ChatSession(engine, sampling, session.conversation, max_tokens=8)
    return chat, restore_cache(engine, session.name, chat.prompt_tokens())


def test_resumed_chat_reads_only_what_is_new(engine: Engine) -> None:
    first = talk(engine, "one two three", "four five six")
    chat, problem = go_on(engine)
    assert problem is None and chat.conversation == first.conversation
    list(chat.send("seven"))
    assert chat.last is not None and chat.last.cached_tokens > 50
    list(first.send("seven"))
    assert chat.conversation == first.conversation


def test_cache_of_an_earlier_state_is_used_as_far_as_it_holds(engine: Engine, store: Path) -> None:
    talk(engine, "one two three", "four five six")
    session = resume("one", refuse)
    assert session.log is not None
    for step in (user("x"), assistant("y"), {"event": "undo"}, {"event": "undo"}, user("z")):
        session.log.record(step)  # the chat was killed before its end
    session.log.close()
    chat, problem = go_on(engine)
    list(chat.regenerate())
    assert problem is None and chat.last is not None and 30 < chat.last.cached_tokens < 60


def test_wrong_caches_are_told_and_not_used(
    engine: Engine, model: Path, store: Path, tmp_path: Path
) -> None:
    talk(engine, "one two three", "four five six")
    path = store / "sessions" / "one.kv"
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[-9] ^= 1
    for data, told in (
        (bytes(flipped), "damaged"),
        (good[:-1], "damaged"),
        (b"", "not a saved KV cache"),
        (b"x" * 999, "not a saved KV cache"),
    ):
        path.write_bytes(data)
        _, problem = go_on(engine)
        assert problem is not None and problem.startswith("the KV cache of one is not used")
        assert told in problem
        assert engine.tokens == []
    path.write_bytes(good)
    other = write_model(tmp_path / "other.gguf", seed=1)
    with Engine(other, engine.settings) as second:
        assert "another model" in str(go_on(second)[1])
    flash = "on" if engine.settings.flash_attention == "off" else "off"
    with Engine(model, EngineSettings(threads=1, flash_attention=flash)) as second:
        assert "other settings" in str(go_on(second)[1])
    file_of(store).unlink()
    saved("one", [user("all else")])
    assert "not those of this conversation" in str(go_on(engine)[1])


def test_cache_that_cannot_be_saved_is_told(
    engine: Engine, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk(engine, "one two three", "four five six")
    (store / "sessions" / "one.kv").unlink()
    (store / "sessions" / "one.kv").mkdir()
    engine.prefill(list(range(3, 50)))
    assert "isn't saved" in str(save_cache(engine, "one"))
    monkeypatch.setenv("LLAMACLI_CACHE_MIB", "many")
    assert "MiB" in str(save_cache(engine, "two"))
    monkeypatch.setenv("LLAMACLI_CACHE_MIB", "0")
    assert save_cache(engine, "two") is None and not (store / "sessions" / "two.kv").exists()


def test_a_chat_that_the_template_refuses_is_loaded_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can be changed then, or exported; what is wrong, the next question tells."""
    saved()
    refusing = "{{ raise_exception('no system role') }}"
    model = write_model(tmp_path / "tiny.gguf", template=refusing)
    with Engine(model, EngineSettings(context=256, threads=1)) as loaded:
        repl = Repl(ChatSession(loaded, SamplingSettings()), str(model), lambda *_: loaded)
        continue_log(repl, resume("one", refuse))
        assert repl.log is not None and len(repl.session.messages) == 7
        assert not capsys.readouterr().err
        with pytest.raises(InvalidModelError, match="no system role"):
            next(repl.session.send("six"))
        repl.log.close()
