"""A conversation as pure data: its messages, and the steps that a chat and its record are made of.

A step is a JSON object: a message, {"role", "content"}, or one of
{"event": "edit", "content"}: the last turn goes, this question comes;
{"event": "regenerate", "content"}: what follows the last question goes, this answer comes;
{"event": "undo"}: the last turn goes;
{"event": "reset"}: all but the system prompt goes;
{"event": "system", "content"}: another system prompt, or none where content is null;
{"event": "forget", "messages"}: so many after the system prompt are no longer in the prompt.

A turn is a user's message with all that follows up to the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from llamacli.messages import Message, problem

Step = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """forgotten counts the messages after the system prompt that the model isn't given any more."""

    messages: tuple[Message, ...] = ()
    forgotten: int = 0

    @property
    def system(self) -> tuple[Message, ...]:
        """The system prompt's message, or nothing."""
        return self.messages[: int(self.messages[:1] != () and _is(self.messages[0], "system"))]

    @property
    def body(self) -> tuple[Message, ...]:
        """The messages after the system prompt."""
        return self.messages[len(self.system) :]

    def given(self, forgotten: int) -> list[Message]:
        """What the model is given where so many messages are forgotten."""
        return [*self.system, *self.body[forgotten:]]

    def turns(self) -> list[int]:
        """Where turns begin in body."""
        return [i for i, message in enumerate(self.body) if _is(message, "user")]

    def steps(self) -> list[Step]:
        """The steps that lead here."""
        return [*self.messages, {"event": "forget", "messages": self.forgotten}]

    def after(self, step: Step) -> "Conversation":
        """The conversation after a step that step_problem finds nothing wrong with."""
        system, body, forgotten = self.system, self.body, self.forgotten
        match step.get("event"):
            case None:
                body = (*body, step)
            case "edit":
                body = (*body[: _last_turn(body)], user(step["content"]))
            case "regenerate":
                last = _last_turn(body)
                body = (*body[: None if last is None else last + 1], assistant(step["content"]))
            case "undo":
                body = body[: _last_turn(body)]
            case "reset":
                body = ()
            case "system":
                text = step["content"]
                system = () if text is None else ({"role": "system", "content": text},)
            case "forget":
                forgotten = step["messages"]
        return Conversation((*system, *body), forgotten if forgotten < len(body) else 0)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def replay(steps: Sequence[Step]) -> Conversation:
    """The conversation that checked steps lead to."""
    conversation = Conversation()
    for is_event, group in groupby(steps, lambda step: "event" in step):
        if is_event:
            for step in group:
                conversation = conversation.after(step)
        else:  # messages together: to copy all for each would take the square of their number
            messages = (*conversation.messages, *group)
            conversation = Conversation(messages, conversation.forgotten)
    return conversation


def step_problem(step: Any) -> str | None:
    """What is wrong with a step from a file, or None."""
    if not isinstance(step, dict) or "event" not in step:
        return problem(step)
    event, content = step["event"], step.get("content", ...)
    if event in ("edit", "regenerate", "system"):
        is_text = isinstance(content, str) or (event == "system" and content is None)
        return None if is_text else "has no content that is a text"
    if event == "forget":
        count = step.get("messages")
        return None if type(count) is int and count >= 0 else "forgets no number of messages"
    return None if event in ("undo", "reset") else "is an unknown event"


def _last_turn(body: Sequence[Message]) -> int | None:
    """Where the last turn begins; None where there is none."""
    return next((i for i in range(len(body) - 1, -1, -1) if _is(body[i], "user")), None)


def _is(message: Message, role: str) -> bool:
    return message["role"] == role
