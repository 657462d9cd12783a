"""A chat: its conversation, and answers that evaluate only what is new.

Where a prompt leaves no room for an answer, an eighth of the context, the oldest turns are let go
until it takes at most half of the context: what is left has to be evaluated anew, so this happens
once in three eighths of a context of talk, not every turn.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from secrets import token_hex
from typing import Any, TypedDict, Unpack

from llamacli.answer import Calling, Chunk, Result, constraint_for, generate
from llamacli.chat.conversation import Conversation, Step, assistant, user
from llamacli.chat.served import ChatEngine
from llamacli.engine import Engine, ProgressCallback, SamplingSettings
from llamacli.errors import DoesNotFitError, UsageError
from llamacli.prompt import Message, encode_turns
from llamacli.tools import OUTPUT_LIMIT, bounded, message_of

ANSWER_SHARE = 1 / 8  # of the context, left for an answer; less where max_tokens is less
KEPT_SHARE = 1 / 2  # of the context, that a prompt takes at most after turns were let go
LIMIT = "Error: not called, for the limit of {} calls is reached; answer from what there is."

Perform = Callable[[str, dict[str, Any]], str]


class Hooks(TypedDict, total=False):
    """What an answer may call: interrupted and on_progress as generate has them.

    on_forget gets the messages of the turns that are let go, before anything is evaluated.
    """

    interrupted: Callable[[], bool]
    on_progress: ProgressCallback | None
    on_forget: Callable[[list[Message]], None]


@dataclass
class ChatSession:
    """A conversation with the engine's model, whose KV cache holds its prompt, or a server's.

    name is that of the session, or another that tells the chat from others. Each turn's prompt is
    that of the conversation, token for token what its template makes of it; the engine keeps what
    the cache has of it and evaluates the rest. record gets each step of the conversation as it
    happens. date is what a date-aware template sees, today where it is None.
    last is the last answer's result, None where it was closed before its end.

    offer has the tools that answers may call, if any; its choice is that of a turn's first answer,
    and after most_calls of a turn none is called. Of a result the model reads output_limit
    characters.
    """

    engine: ChatEngine
    sampling: SamplingSettings
    conversation: Conversation = field(default_factory=Conversation)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    date: datetime | None = None
    record: Callable[[Step], None] = lambda _: None
    last: Result | None = None
    offer: Calling | None = None
    most_calls: int = 16
    output_limit: int = OUTPUT_LIMIT
    name: str = field(default_factory=partial(token_hex, 16))

    @property
    def messages(self) -> list[Message]:
        """All of them, the system prompt first where there is one."""
        return list(self.conversation.messages)

    @property
    def forgotten(self) -> int:
        """How many messages after the system prompt are no longer in the prompt."""
        return self.conversation.forgotten

    def send(self, text: str, **hooks: Unpack[Hooks]) -> Iterator[Chunk]:
        """Ask, and give the answer piece by piece.

        The question and what was said of the answer are kept when it is cut off; before a word of
        it, the question alone. Raises DoesNotFitError, and nothing has changed, where the question
        doesn't fit beside the system prompt.
        """
        question = user(text)
        return self._answer(self.conversation.after(question), question, **hooks)

    def edit(self, text: str, **hooks: Unpack[Hooks]) -> Iterator[Chunk]:
        """Ask this instead of the last question; the rest is as with send."""
        self._last_question()
        question = {"event": "edit", "content": text}
        return self._answer(self.conversation.after(question), question, **hooks)

    def regenerate(self, **hooks: Unpack[Hooks]) -> Iterator[Chunk]:
        """Answer the last question anew; the old answer stays until a word of the new one came.

        Without a seed in the settings another one is drawn.
        """
        messages = self.conversation.messages
        end = len(self.conversation.system) + self._last_question() + 1
        return self._answer(Conversation(messages[:end], self.forgotten), None, anew=True, **hooks)

    def go_on(self, **hooks: Unpack[Hooks]) -> Iterator[Chunk]:
        """Answer from the results that give put below the last answer's calls."""
        return self._answer(self.conversation, None, **hooks)

    def pending(self) -> list[dict[str, Any]]:
        """The last answer's calls that have no result yet, as messages have them."""
        return self.conversation.pending()

    def calls_left(self) -> int:
        """How many more calls this turn may have."""
        roles = [message["role"] for message in self.conversation.body]
        return self.most_calls - roles[self._last_question() :].count("tool")

    def give(self, call: dict[str, Any], text: str) -> None:
        """A call's result; half a surrogate pair in it, which no prompt can have, is a `?`."""
        message = {
            "role": "tool",
            "name": call["function"]["name"],
            "tool_call_id": call.get("id", ""),
            "content": text.encode(errors="replace").decode(),
        }
        self._step(bounded([message], self.output_limit)[0])

    def undo(self) -> Message | None:
        """Take the last turn back; gives its question, or None where there is no turn."""
        turns = self.conversation.turns()
        if not turns:
            return None
        question = self.conversation.body[turns[-1]]
        self._step({"event": "undo"})
        return question

    def reset(self) -> None:
        """Take back all but the system prompt."""
        self._step({"event": "reset"})

    def set_system(self, text: str | None) -> None:
        """Another system prompt from the next turn on, or none. Raises UsageError."""
        if text is not None:
            self.engine.vocabulary.tokenize(text)
        self._step({"event": "system", "content": text})

    def use_engine(self, engine: ChatEngine) -> None:
        """Go on with another model or context; what was let go comes back where it fits."""
        self.engine = engine
        self._step({"event": "forget", "messages": 0})

    def prompt_tokens(self) -> list[int]:
        """The tokens of the conversation as the model would read it next."""
        return self._encode(self.conversation, self.forgotten)

    def _answer(
        self,
        asked: Conversation,
        question: Step | None,
        *,
        anew: bool = False,
        interrupted: Callable[[], bool] = lambda: False,
        on_progress: ProgressCallback | None = None,
        on_forget: Callable[[list[Message]], None] = lambda _: None,
    ) -> Iterator[Chunk]:
        """Answer asked, to which question leads where it isn't None; anew in an answer's place."""
        self.last = None
        tokens, forgotten = self._fit(asked)
        calling = self._calling(asked)
        if question is not None:
            self._step(question)
        if forgotten != asked.forgotten:
            self._step({"event": "forget", "messages": forgotten})
            on_forget(list(asked.body[asked.forgotten : forgotten]))
        said = ""
        chunks = self._chunks(tokens, calling, interrupted, on_progress)
        try:
            for chunk in calling.parted(chunks, lines=False) if calling else chunks:
                said += chunk.text
                self.last = chunk.result
                yield chunk
        finally:
            ended = self.last is not None and self.last.finish_reason != "interrupted"
            calls = calling.calls if calling and ended else []
            if said or ended:
                answer = message_of(calls, said, calling.first) if calling and calls else None
                step = answer or assistant(said)
                self._step({"event": "regenerate", **step} if anew else step)

    def _chunks(
        self,
        tokens: list[int],
        calling: Calling | None,
        interrupted: Callable[[], bool],
        on_progress: ProgressCallback | None,
    ) -> Iterator[Chunk]:
        """An answer with its calls in its text: by the engine that is here, else by the server."""
        engine = self.engine
        if not isinstance(engine, Engine):
            answer = partial(engine.answer, chat=self.name, calling=calling)
        else:
            answer = partial(
                generate,
                engine,
                constraint=constraint_for(engine, len(tokens), self.max_tokens, calling=calling),
                spelled=calling.spelled(engine.vocabulary) if calling else (),
            )
        return answer(
            tokens,
            self.sampling,
            max_tokens=self.max_tokens,
            stop=self.stop,
            interrupted=interrupted,
            on_progress=on_progress,
        )

    def _calling(self, asked: Conversation) -> Calling | None:
        """What an answer to asked may call."""
        if self.offer is None:
            return None
        choice = self.offer.choice
        if asked.body[-1]["role"] != "user":
            choice = "auto" if choice != "none" and self.calls_left() > 0 else "none"
        return replace(self.offer, choice=choice, first=asked.called, calls=[])

    def _last_question(self) -> int:
        turns = self.conversation.turns()
        if not turns:
            raise UsageError("nothing has been asked yet")
        return turns[-1]

    def _step(self, step: Step) -> None:
        self.conversation = self.conversation.after(step)
        self.record(step)

    def _encode(self, conversation: Conversation, forgotten: int) -> list[int]:
        tools = [tool.given for tool in self.offer.tools] if self.offer else None
        return encode_turns(self.engine, conversation.given(forgotten), tools=tools, date=self.date)

    def _fit(self, asked: Conversation) -> tuple[list[int], int]:
        """The prompt's tokens, and how many messages had to be forgotten for it."""
        size = self.engine.context_size
        room = int(size * ANSWER_SHARE)
        limit = size - min(room, self.max_tokens or room)
        tokens = self._encode(asked, asked.forgotten)
        if len(tokens) <= limit:
            return tokens, asked.forgotten
        later = [turn for turn in asked.turns() if turn > asked.forgotten] or [asked.forgotten]
        aim = -int(size * KEPT_SHARE)
        at = bisect_left(later, aim, key=lambda turn: -len(self._encode(asked, turn)))
        forgotten = later[min(at, len(later) - 1)]
        tokens = self._encode(asked, forgotten)
        if len(tokens) > limit:
            beside = " and the system prompt take" if asked.system else " takes"
            raise DoesNotFitError(
                f"the message{beside} {len(tokens)} tokens; of the context's {size}, {limit} can "
                "be used beside an answer: shorten it, or raise the context with -c"
            )
        return tokens, forgotten


def perform_calls(session: ChatSession, perform: Perform) -> int:
    """Give each call of the last answer its result; how many there were.

    perform gets a name and arguments. What it raises ends the turn.
    """
    calls = session.pending()
    for call in calls:
        if session.calls_left() < 1:
            session.give(call, LIMIT.format(session.most_calls))
            continue
        session.give(call, perform(call["function"]["name"], call["function"]["arguments"]))
    return len(calls)


def final_answer(
    session: ChatSession, question: str, perform: Perform, **hooks: Unpack[Hooks]
) -> Iterator[Chunk]:
    """Ask, call what the model calls, and give the last answer alone, in one piece."""
    chunks = session.send(question, **hooks)
    while True:
        text = "".join(chunk.text for chunk in chunks)
        if session.last is None or session.last.finish_reason == "interrupted":
            break
        if not perform_calls(session, perform):
            break
        chunks = session.go_on(**hooks)
    assert session.last is not None
    yield Chunk(text, session.last)
