"""The runtime with the demo model: what is cached, how text streams, where an answer ends."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from convert import convert
from llamacli.answer import AnswerText, Result, generate
from llamacli.answer.generation import split_at_stop
from llamacli.chat.turns import ChatSession
from llamacli.engine.engine import Engine
from llamacli.engine.sampling import SamplingSettings
from llamacli.engine.settings import EngineSettings
from llamacli.errors import DoesNotFitError
from llamacli.prompt.encode import encode_raw, encode_turns

DEMO = Path(__file__).resolve().parents[1] / "llamacli" / "demo"
GREEDY = SamplingSettings(temperature=0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("runtime") / "demo.gguf"
    convert(DEMO, target, "Q8_0")
    return target


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    with Engine(path, EngineSettings(context=512)) as loaded:
        yield loaded


def answer(engine: Engine, text: str, **options: object) -> tuple[str, Result]:
    """The pieces joined, and the result."""
    tokens = encode_turns(engine, [{"role": "user", "content": text}])
    chunks = list(generate(engine, tokens, GREEDY, **options))  # type: ignore[arg-type]
    assert chunks[-1].result is not None
    return "".join(chunk.text for chunk in chunks), chunks[-1].result


def test_streamed_pieces_are_the_answer(engine: Engine) -> None:
    text, result = answer(engine, "What is GGUF?")
    assert "llama.cpp's file format" in text and text == result.text
    assert result.finish_reason == "stop"


def test_all_three_end_tokens_end_an_answer(engine: Engine) -> None:
    special = engine.vocabulary.special_tokens
    names = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
    assert {special[name] for name in names} <= engine.vocabulary.end_tokens


def test_prefill_evaluates_only_what_is_new(engine: Engine) -> None:
    first = encode_raw(engine.vocabulary, "one two three four five six")
    assert engine.prefill(first) == 0 and engine.tokens == first
    longer = [*first, *engine.vocabulary.tokenize(" seven eight")]
    assert engine.prefill(longer) == len(first) and engine.tokens == longer
    assert engine.prefill(longer) == len(longer) - 1  # the last one again, for its logits
    assert engine.prefill(first) == len(first) - 1


def test_a_prompt_is_read_once_prefill_returns(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU goes on after llama_decode: its time was counted as that of the answer."""
    waited: list[int] = []

    def synchronize(_: Any) -> None:
        waited.append(len(engine.tokens))

    monkeypatch.setattr(engine.library, "llama_synchronize", synchronize)
    engine.prefill([5, 6, 7, 8])
    assert waited == [4]


def test_logits_are_the_same_with_and_without_the_cache(path: Path, engine: Engine) -> None:
    tokens = encode_raw(engine.vocabulary, "rope scaling stretches the rotary frequencies")
    engine.prefill(tokens[:5])
    engine.prefill(tokens)
    cached = engine.logits().copy()
    with Engine(path, EngineSettings(context=512)) as fresh:
        fresh.prefill(tokens)
        assert np.abs(fresh.logits() - cached).max() < 0.05


def test_each_turn_of_a_chat_reads_only_its_own_words(engine: Engine) -> None:
    session = ChatSession(engine, GREEDY)
    for question in ("Hello", "What is GGUF?", "What is rope scaling?"):
        result = [chunk.result for chunk in session.send(question)][-1]
        assert result is not None
        new = result.prompt_tokens - result.cached_tokens
        assert new <= len(engine.vocabulary.tokenize(question)) + 16  # the template's markers
    assert len(session.messages) == 6 and "rotary" in session.messages[-1]["content"]


def test_greedy_follows_the_highest_logit(engine: Engine) -> None:
    tokens = encode_turns(engine, [{"role": "user", "content": "What is GGUF?"}])
    _, result = answer(engine, "What is GGUF?", max_tokens=12)
    for token in result.tokens:
        engine.prefill(tokens)
        assert int(engine.logits().argmax()) == token
        tokens.append(token)


def test_answers_equal_the_high_level_class(path: Path, engine: Engine) -> None:
    """llama-cpp-python's own Llama, asked the same way, writes the same tokens."""
    tokens = encode_turns(engine, [{"role": "user", "content": "How do I start a chat?"}])
    _, result = answer(engine, "How do I start a chat?", max_tokens=20)
    model = llama_cpp.Llama(str(path), n_ctx=512, verbose=False)
    theirs: list[int] = []
    for token in model.generate(tokens, temp=0.0, top_k=1):
        if token in engine.vocabulary.end_tokens or len(theirs) == 20:
            break
        theirs.append(token)
    assert list(result.tokens) == theirs


def test_length_and_seed_are_told(engine: Engine) -> None:
    text, result = answer(engine, "What is rope scaling?", max_tokens=3)
    assert result.finish_reason == "length" and result.answer_tokens == 3 and text


def test_a_cache_that_grows_changes_no_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It grows in the middle of an answer, before a long prompt, and for a saved state."""
    prompt = [1000 + i % 50 for i in range(40)]
    settings = EngineSettings(context=512, device="cpu")  # on a GPU it has all its cells at once

    def logits(engine: Engine) -> list[list[float]]:
        answers = []
        engine.prefill(prompt)
        for token in range(600, 640):
            engine.decode(token)
            answers.append(engine.logits()[:64].tolist())
        assert engine.prefill([*engine.tokens, *prompt]) == 80
        answers.append(engine.logits()[:64].tolist())
        engine.keep(20)
        engine.decode(5)
        return [*answers, engine.logits()[:64].tolist()]

    with Engine(path, settings) as whole:
        expected = logits(whole)
    for room in (64, 100):
        monkeypatch.setattr("llamacli.engine.engine.FIRST_ROOM", room)
        with Engine(path, settings) as growing:
            assert growing.library.llama_n_ctx(growing.context_pointer) < 512
            assert logits(growing) == expected
            assert growing.library.llama_n_ctx(growing.context_pointer) == 512


def test_answer_ends_where_the_context_is_full(path: Path) -> None:
    with Engine(path, EngineSettings(context=24)) as small:
        tokens = encode_raw(small.vocabulary, "rope scaling " * 5)
        result = [chunk.result for chunk in generate(small, tokens, GREEDY)][-1]
        assert result is not None and result.finish_reason in ("length", "stop")
        assert len(small.tokens) <= 24


def test_prompt_beyond_the_context_is_refused_with_both_sizes(engine: Engine) -> None:
    tokens = encode_raw(engine.vocabulary, "word " * 600)
    with pytest.raises(DoesNotFitError, match=rf"{len(tokens)} tokens, the context 512"):
        engine.prefill(tokens)


def test_stop_text_never_shows(engine: Engine) -> None:
    whole, _ = answer(engine, "What is GGUF?")
    stop = whole[10:16]
    text, result = answer(engine, "What is GGUF?", stop=[stop])
    assert text == whole[: whole.index(stop)] and result.finish_reason == "stop"


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("hello", ("###",), ("hello", "", False)),
        ("hello #", ("###",), ("hello ", "#", False)),
        ("hello ## x", ("###",), ("hello ## x", "", False)),
        ("hello ### x", ("###",), ("hello ", "", True)),
        ("ab", ("abc", "b"), ("a", "", True)),
        ("xab", ("abab",), ("x", "ab", False)),
    ],
)
def test_split_at_stop(text: str, stop: tuple[str, ...], expected: tuple[str, str, bool]) -> None:
    assert split_at_stop(text, stop) == expected


def test_character_split_over_tokens_never_prints_broken(path: Path, engine: Engine) -> None:
    """Every character of the text is made of several byte tokens of the demo's vocabulary."""
    text = "漢字🦙"
    tokens = engine.vocabulary.tokenize(text)
    assert len(tokens) > len(text)
    stream = AnswerText(())
    pieces = [stream.add(engine.vocabulary.piece(token)) for token in tokens]
    assert "".join(pieces) + stream.finish() == text
    assert not any("�" in piece for piece in pieces)


def test_interrupt_keeps_what_was_said(engine: Engine) -> None:
    session = ChatSession(engine, GREEDY)
    answer_pieces = session.send("What is rope scaling?")
    said = next(answer_pieces).text + next(answer_pieces).text
    answer_pieces.close()
    assert session.messages[-1] == {"role": "assistant", "content": said}
