"""A conversation as pure data: its messages, and the steps that a chat and its record are made of.

A step is a JSON object: a message, {"role", "content"}, which comes last or, a system's, stands in
for the system prompt; or one of
{"event": "edit", "content"}: the last turn goes, this question comes;
{"event": "regenerate", "content"}: what follows the last question goes, this answer comes, which
may have tool_calls;
{"event": "undo"}: the last turn goes;
{"event": "reset"}: all but the system prompt goes;
{"event": "system", "content"}: another system prompt, or none where content is null;
{"event": "forget", "messages"}: so many after the system prompt are no longer in the prompt.

A turn is a user's message with all that follows up to the next one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llamacli.prompt import RESULT_ROLES, Message, normal, problem

Step = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """forgotten counts the messages after the system prompt that the model isn't given any more."""

    messages: tuple[Message, ...] = ()
    forgotten: int = 0

    @property
    def system(self) -> tuple[Message, ...]:
        """The system prompt's message, or nothing."""
        first = self.messages[:1]
        return first if first and first[0]["role"] == "system" else ()

    @property
    def body(self) -> tuple[Message, ...]:
        """The messages after the system prompt."""
        return self.messages[len(self.system) :]

    def given(self, forgotten: int) -> list[Message]:
        """What the model is given where so many messages are forgotten."""
        return [*self.system, *self.body[forgotten:]]

    @property
    def called(self) -> int:
        """How many calls there are in it."""
        return sum(len(calls_of(message)) for message in self.messages)

    def pending(self) -> list[dict[str, Any]]:
        """The calls of the last answer that have no result yet, as its message has them."""
        for place in range(len(self.body) - 1, -1, -1):
            message = self.body[place]
            if message["role"] not in RESULT_ROLES:
                given = {result.get("tool_call_id") for result in self.body[place + 1 :]}
                return [call for call in calls_of(message) if call.get("id") not in given]
        return []

    def turns(self) -> list[int]:
        """Where turns begin in body."""
        return [i for i, message in enumerate(self.body) if message["role"] == "user"]

    def steps(self) -> list[Step]:
        """The steps that lead here."""
        forget = {"event": "forget", "messages": self.forgotten}
        return [*self.messages, *[forget] * bool(self.forgotten)]

    def after(self, step: Step) -> "Conversation":
        """The conversation after a step that is one."""
        return replay([step], self)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def calls_of(message: Message) -> list[dict[str, Any]]:
    return message.get("tool_calls") or []


def replay(steps: Iterable[Step], start: Conversation = Conversation()) -> Conversation:
    """The conversation that checked steps lead to; its cost grows only as their number does."""
    system, body, turns = list(start.system), list(start.body), start.turns()
    forgotten = start.forgotten
    for step in steps:
        match step.get("event", step.get("role")):
            case "undo" | "edit" if turns:
                del body[turns.pop() :]
            case "regenerate" if turns:
                del body[turns[-1] + 1 :]
            case "reset":
                body, turns = [], []
            case "system":
                text = step["content"]
                system = [] if text is None else [{"role": "system", "content": text}]
            case "forget":
                forgotten = step["messages"]
        if (message := _message(step)) is not None:
            if message["role"] == "user":
                turns.append(len(body))
            body.append(message)
        if forgotten >= len(body):
            forgotten = 0
    return Conversation((*system, *body), forgotten)


def _message(step: Step) -> Message | None:
    """The message that a step puts at the conversation's end."""
    match step.get("event"):
        case "edit":
            return user(step["content"])
        case "regenerate":
            return _answer(step)
        case None if step["role"] != "system":
            return step
    return None


def _answer(step: Step) -> Message:
    """The message of a step that regenerates one."""
    return {**{key: value for key, value in step.items() if key != "event"}, "role": "assistant"}


def read_step(value: Any) -> Step | None:
    """A step from a file, with its message as templates read it; None where it is none."""
    match value:
        case (
            {"event": "edit", "content": str()}
            | {"event": "system", "content": str() | None}
            | {"event": "undo" | "reset"}
        ):
            return dict(value)
        case {"event": "forget", "messages": int(count)} if type(count) is int and count >= 0:
            return dict(value)
        case {"event": "regenerate"} if problem(_answer(value)) is None:
            return {"event": "regenerate", **normal(_answer(value))}
        case {"event": _}:
            return None
        case _ if problem(value) is None:
            return normal(value)
    return None
