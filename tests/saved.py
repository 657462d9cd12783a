"""Saved chats for tests."""

import json
from pathlib import Path
from typing import Any

from llamacli.chat.conversation import Conversation, Step, assistant, replay, user
from llamacli.chat.file import Session, SessionHead
from llamacli.chat.saved import create, resume

HEAD = SessionHead("demo", "Q8_0", {"temperature": 0.0, "max_tokens": 6, "stop": ["###"]})
STEPS: list[Step] = [
    {"event": "system", "content": "Sei kurz, 漢字 🦙"},
    user("Grüße\nin zwei Zeilen"),
    assistant("Hallo, \u2028 <|eot_id|>"),
    user("zwei"),
    assistant(""),
    {"event": "regenerate", "content": "2"},
    {"event": "edit", "content": "drei"},
    assistant("3"),
    {"event": "forget", "messages": 2},
    user("vier"),
    {"event": "undo"},
    user("fünf"),
    assistant("5"),
]


def refuse(text: str) -> None:
    raise AssertionError(text)


def saved(name: str = "one", steps: list[Step] = STEPS) -> Conversation:
    """Write a session; the conversation that it holds."""
    log = create(name, HEAD, refuse)
    for step in steps:
        log.record(step)
    log.close()
    return replay(steps)


def reopened(name: str | None = "one") -> Session:
    """The session, its lock let go again."""
    session = resume(name, refuse)
    if session.log is not None:
        session.log.close()
    return session


def file_of(store: Path, name: str = "one") -> Path:
    return store / "sessions" / f"{name}.jsonl"


def write(store: Path, data: bytes, name: str = "one") -> Path:
    file_of(store, name).parent.mkdir(parents=True, exist_ok=True)
    file_of(store, name).write_bytes(data)
    return file_of(store, name)


def line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"
