"""The chat's conversation: what is evaluated, what is let go, what an interrupt leaves."""

import random
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from convert import convert
from llamacli.answer.output import Chunk, Result
from llamacli.chat.conversation import Conversation, Step, assistant, read_step, replay, user
from llamacli.chat.turns import ANSWER_SHARE, KEPT_SHARE, ChatSession
from llamacli.engine import Engine, common_prefix
from llamacli.engine.sampling import SamplingSettings
from llamacli.engine.settings import EngineSettings
from llamacli.errors import DoesNotFitError, UsageError
from llamacli.prompt.encode import encode_turns
from llamacli.prompt.messages import Message
from tests.standins.tiny import write_model

DEMO = Path(__file__).resolve().parents[1] / "llamacli" / "demo"
GREEDY = SamplingSettings(temperature=0)
QUESTIONS = ("Hello", "What is GGUF?", "What is rope scaling?")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("chat") / "demo.gguf"
    convert(DEMO, target, "Q8_0")
    return target


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    with Engine(path, EngineSettings(context=512, threads=1)) as loaded:
        yield loaded


@pytest.fixture
def chat(engine: Engine) -> ChatSession:
    """A chat with a system prompt and three turns."""
    session = ChatSession(engine, GREEDY)
    session.set_system("Answer briefly.")
    for question in QUESTIONS:
        finish(session, session.send(question))
    return session


def finish(chat: ChatSession, chunks: Iterator[Chunk]) -> Result:
    """The answer's result, once what holds of every answer has been checked."""
    text = "".join(chunk.text for chunk in chunks)
    result = chat.last
    assert result is not None and result.text == text == chat.messages[-1]["content"]
    asked = [*chat.conversation.system, *chat.conversation.body[chat.forgotten : -1]]
    prompt = encode_turns(chat.engine, asked)
    assert len(prompt) == result.prompt_tokens and chat.engine.tokens[: len(prompt)] == prompt
    return result


def test_the_prompt_stays_the_template_s_where_answers_tokenize_otherwise(tmp_path: Path) -> None:
    """Random weights choose tokens that their own text isn't cut into."""
    with Engine(write_model(tmp_path / "tiny.gguf"), EngineSettings(threads=1)) as engine:
        chat = ChatSession(engine, GREEDY, max_tokens=12)
        finish(chat, chat.send("a"))
        before = list(engine.tokens)
        result = finish(chat, chat.send("b"))
        assert common_prefix(before, engine.tokens) == result.cached_tokens < len(before)


def test_regenerate_reads_nothing_anew(chat: ChatSession) -> None:
    messages = chat.messages
    result = finish(chat, chat.regenerate())
    assert result.cached_tokens == result.prompt_tokens - 1
    assert chat.messages == messages


def test_regenerate_draws_a_seed_unless_one_is_fixed(chat: ChatSession) -> None:
    chat.sampling, chat.max_tokens = SamplingSettings(temperature=5.0, top_p=1.0), 20
    first, second = (finish(chat, chat.regenerate()) for _ in range(2))
    assert first.seed != second.seed and first.text != second.text
    chat.sampling = SamplingSettings(temperature=5.0, top_p=1.0, seed=7)
    first, second = (finish(chat, chat.regenerate()) for _ in range(2))
    assert first.seed == second.seed == 7 and first.text == second.text


def test_edit_reads_only_the_new_question(chat: ChatSession) -> None:
    messages = chat.messages
    result = finish(chat, chat.edit("What is a token?"))
    assert chat.messages[:-2] == messages[:-2]
    assert chat.messages[-2] == user("What is a token?")
    assert result.prompt_tokens - result.cached_tokens <= 24


def test_undo_rewinds_to_what_stays(chat: ChatSession) -> None:
    assert chat.undo() == user(QUESTIONS[2])
    assert chat.undo() == user(QUESTIONS[1])
    kept = common_prefix(chat.engine.tokens, chat.prompt_tokens())
    result = finish(chat, chat.send("What is GGUF?"))
    assert result.cached_tokens >= kept > 20
    assert [chat.undo() is not None for _ in range(3)] == [True, True, False]
    assert [message["role"] for message in chat.messages] == ["system"]


def test_nothing_asked_has_nothing_to_regenerate_or_edit(engine: Engine) -> None:
    chat = ChatSession(engine, GREEDY)
    for act in (chat.regenerate, lambda: chat.edit("x")):
        with pytest.raises(UsageError, match="nothing has been asked"):
            act()
    assert chat.undo() is None and chat.messages == []


def test_system_prompt_can_change_and_go(chat: ChatSession) -> None:
    chat.set_system("Be long.")
    assert chat.messages[0]["content"] == "Be long." and len(chat.messages) == 7
    finish(chat, chat.send("Hello"))
    chat.reset()
    assert len(chat.messages) == 1
    chat.set_system(None)
    assert chat.messages == []
    assert "GGUF" not in finish(chat, chat.send("Hello")).text


def overflow(chat: ChatSession, turns: int) -> list[tuple[list[Message], Result]]:
    """Turns of the same question; for each what was let go, and its result."""
    seen = []
    for _ in range(turns):
        gone: list[Message] = []
        result = finish(chat, chat.send("What is rope scaling?", on_forget=gone.extend))
        seen.append((gone, result))
    return seen


def test_oldest_turns_are_let_go_whole_and_told(chat: ChatSession) -> None:
    size = chat.engine.context_size
    seen = overflow(chat, 60)
    lost = [gone for gone, _ in seen if gone]
    assert sum(map(len, lost)) == chat.forgotten
    assert [message for gone in lost for message in gone] == chat.messages[1 : 1 + chat.forgotten]
    for gone in lost:
        assert gone[0]["role"] == "user" and gone[-1]["role"] == "assistant"
    for gone, result in seen:
        assert result.prompt_tokens <= size * (KEPT_SHARE if gone else 1 - ANSWER_SHARE)
        assert result.finish_reason == "stop" and "rotary" in result.text
    rare = [i for i, (gone, _) in enumerate(seen) if gone]
    assert len(rare) > 3 and all(b - a > 3 for a, b in pairwise(rare))
    new = [r.prompt_tokens - r.cached_tokens for gone, r in seen if not gone]
    assert max(new) < 32  # the rest of the time, only what is new is read


def test_tool_messages_go_with_their_question(engine: Engine) -> None:
    turn = [
        user("What is the weather?"),
        assistant("{}"),
        {"role": "tool", "content": "rain " * 20},
        assistant("It rains."),
    ]
    chat = ChatSession(engine, GREEDY, Conversation(tuple(turn * 12)))
    gone: list[Message] = []
    finish(chat, chat.send("Hello", on_forget=gone.extend))
    assert gone and gone == turn * (len(gone) // 4)


def test_a_message_that_does_not_fit_changes_nothing(chat: ChatSession) -> None:
    overflow(chat, 8)
    before, cached, steps = chat.conversation, list(chat.engine.tokens), list[Step]()
    chat.record = steps.append
    for act in (chat.send, chat.edit):
        with pytest.raises(DoesNotFitError, match=r"take \d{3,} tokens; of the context's 512, 448"):
            next(act("word " * 600))
    assert (chat.conversation, chat.engine.tokens, steps) == (before, cached, [])
    result = finish(chat, chat.send("What is GGUF?"))
    assert result.cached_tokens > 40 and "file format" in result.text


def test_a_message_that_fits_alone_is_answered(chat: ChatSession) -> None:
    gone: list[Message] = []
    result = finish(chat, chat.send("word " * 350, on_forget=gone.extend))
    assert len(gone) == 6 and result.prompt_tokens > 350


def test_room_for_an_answer_is_no_more_than_it_may_take(engine: Engine) -> None:
    chat = ChatSession(engine, GREEDY, max_tokens=4)
    words = "word " * 460
    assert 448 < finish(chat, chat.send(words)).prompt_tokens <= 508
    chat = ChatSession(engine, GREEDY)
    with pytest.raises(DoesNotFitError):
        next(chat.send(words))


def test_an_answer_ends_where_the_context_is_full(tmp_path: Path) -> None:
    settings = EngineSettings(context=64, threads=1)
    with Engine(write_model(tmp_path / "tiny.gguf"), settings) as engine:
        chat = ChatSession(engine, GREEDY)
        result = finish(chat, chat.send("a b c"))
        assert result.finish_reason == "length" and len(engine.tokens) == 64
        finish(chat, chat.send("and on"))


def test_undo_beyond_what_was_let_go_brings_it_back(chat: ChatSession) -> None:
    overflow(chat, 12)
    assert chat.forgotten
    while len(chat.messages) > 1 + chat.forgotten > 1:
        chat.undo()
    assert chat.forgotten == 0 and len(chat.messages) > 1
    finish(chat, chat.send("Hello"))


def test_a_larger_context_brings_back_what_was_let_go(path: Path, chat: ChatSession) -> None:
    overflow(chat, 12)
    assert chat.forgotten
    with Engine(path, EngineSettings(context=1024, threads=1)) as larger:
        chat.use_engine(larger)
        finish(chat, chat.send("Hello"))
        assert chat.forgotten == 0


def test_interrupted_answer_keeps_what_was_said(chat: ChatSession) -> None:
    said: list[str] = []
    for chunk in chat.send("What is rope scaling?", interrupted=lambda: len(said) > 3):
        said.append(chunk.text)
    assert chat.last is not None and chat.last.finish_reason == "interrupted"
    assert chat.messages[-1] == assistant("".join(said))
    assert "Rope scaling stretches the rotary".startswith("".join(said)[:20])
    assert "file format" in finish(chat, chat.send("What is GGUF?")).text


def test_closed_answer_keeps_what_was_said(chat: ChatSession) -> None:
    chunks = chat.send("What is rope scaling?")
    said = next(chunks).text + next(chunks).text
    chunks.close()
    assert chat.messages[-2:] == [user("What is rope scaling?"), assistant(said)]
    assert chat.last is None


def test_before_a_word_the_question_alone_is_kept(chat: ChatSession) -> None:
    list(chat.send("What is GGUF?", interrupted=lambda: True))
    assert chat.messages[-1] == user("What is GGUF?")
    assert chat.last is not None and chat.last.finish_reason == "interrupted"
    assert "file format" in finish(chat, chat.regenerate()).text
    assert len(chat.messages) == 9


def test_old_answer_stays_until_a_word_of_the_new_one(chat: ChatSession) -> None:
    messages = chat.messages
    list(chat.regenerate(interrupted=lambda: True))
    assert chat.messages == messages


def test_a_fixed_date_is_what_the_template_sees(tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ strftime_now('%d %B %Y') }}{{ messages[0].content }}"
    model = write_model(tmp_path / "dated.gguf", template=template)
    with Engine(model, EngineSettings(threads=1)) as engine:
        chat = ChatSession(engine, GREEDY, max_tokens=2, date=datetime(1999, 12, 31))
        list(chat.send("x"))
        assert "31 December 1999x" in engine.vocabulary.text_of(engine.tokens)
        chat.date = None
        list(chat.send("x"))
        assert f"{datetime.now():%Y}" in engine.vocabulary.text_of(engine.tokens)


def test_recorded_steps_lead_to_the_same_conversation(engine: Engine) -> None:
    """Random acts on a small context: the steps alone give what the chat has."""
    generator = random.Random(0)
    steps: list[Step] = []
    chat = ChatSession(engine, GREEDY, max_tokens=4, record=steps.append)
    chat.set_system("s")
    for i in range(80):
        act = generator.choice(["send", "send", "send", "edit", "undo", "regen", "system", "reset"])
        if act == "reset" and generator.random() < 0.7:
            continue
        words = f"{i} word" * generator.randrange(1, 40)
        stop = generator.choice([lambda: False, lambda: True, lambda: generator.random() < 0.1])
        if act == "send" or not chat.conversation.turns():
            list(chat.send(words, interrupted=stop))
        elif act == "edit":
            list(chat.edit(words, interrupted=stop))
        elif act == "regen":
            list(chat.regenerate(interrupted=stop))
        elif act == "system":
            chat.set_system(generator.choice([None, words[:30]]))
        elif act == "undo":
            chat.undo()
        else:
            chat.reset()
        assert replay(steps) == chat.conversation
    assert list(map(read_step, steps)) == steps
    assert replay(chat.conversation.steps()) == chat.conversation
    assert any(step.get("event") == "forget" for step in steps)


def test_five_hundred_turns_cost_no_memory_and_no_sense(path: Path) -> None:
    with Engine(path, EngineSettings(context=256, threads=1)) as engine:
        talk_long(ChatSession(engine, GREEDY, max_tokens=12))


def talk_long(chat: ChatSession) -> None:
    expected = dict.fromkeys(QUESTIONS, "")

    def talk(turns: int) -> None:
        for i in range(turns):
            question = QUESTIONS[i % 3]
            text = finish(chat, chat.send(question)).text
            assert expected[question] in ("", text)
            expected[question] = text

    talk(100)
    process = psutil.Process()
    memory, opened = process.memory_info().rss, process.num_fds()
    talk(400)
    assert process.memory_info().rss - memory < 8 << 20
    assert process.num_fds() == opened
    assert "file format" in expected["What is GGUF?"] and len(chat.messages) == 1000
