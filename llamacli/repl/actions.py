"""What slash commands do with the conversation and the model, and what /set changes."""

import base64
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from llamacli.chat import ChatSession
from llamacli.errors import LlamacliError, UsageError
from llamacli.home import expanded
from llamacli.models import complete_models
from llamacli.prompt import read_file
from llamacli.repl.saved import load_model, remember
from llamacli.repl.state import Ask, Repl, beginning, model_line, used_tokens
from llamacli.terminal import Write, columns, harmless, printable, say, send

FREE = ("none", "default")  # words that take a limit or a seed away


SETTINGS = {
    "temperature": "0 is greedy and reproducible",
    "top-p": "choose among tokens that make up this share",
    "top-k": "choose among the likeliest tokens; 0 is all",
    "min-p": "leave out tokens below this share of the likeliest",
    "repeat-penalty": "weigh against the last 64 tokens; 1 is off",
    "seed": "the same seed gives the same answer",
    "max-tokens": "end an answer after that many tokens",
}
WHOLE = ("top-k", "seed", "max-tokens")
OPTIONAL = ("seed", "max-tokens")


def values(session: ChatSession) -> dict[str, str]:
    """The settings now, as they are shown."""
    held = {**vars(session.sampling), "max_tokens": session.max_tokens}
    return {name: _shown(held[name.replace("-", "_")]) for name in SETTINGS}


def change(session: ChatSession, name: str, text: str) -> None:
    """Give a setting the value that text says; raises UsageError, nothing being changed then."""
    value = _read(name, text)
    if name != "max-tokens":
        changed: dict[str, Any] = {name.replace("-", "_"): value}
        session.sampling = replace(session.sampling, **changed)
    elif value is not None and value < 1:
        raise UsageError(f"max-tokens is {value}; give 1 or more, or none")
    else:
        session.max_tokens = value


def _read(name: str, text: str) -> Any:
    if name in OPTIONAL and text.lower() in FREE:
        return None
    try:
        return int(text) if name in WHOLE else float(text)
    except ValueError:
        kind = "a whole number" if name in WHOLE else "a number"
        or_none = " or none" * (name in OPTIONAL)
        raise UsageError(f"{name} is {kind}{or_none}, not {text!r}") from None


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def system(repl: Repl, argument: str) -> None:
    if argument:
        repl.session.set_system(None if argument == "-" else argument)
        say("(no system prompt from now on)" if argument == "-" else "(the system prompt is set)")
        return
    prompt = repl.session.conversation.system
    say(prompt[0]["content"] if prompt else "(no system prompt)")


def reset(repl: Repl, argument: str) -> None:  # noqa: ARG001
    repl.session.reset()
    say("(forgotten)")


def regenerate(repl: Repl, argument: str) -> Ask:  # noqa: ARG001
    return repl.session.regenerate


def edit(repl: Repl, argument: str) -> Ask | None:
    question = last_of(repl, "user")
    if question is None:
        raise UsageError("nothing has been asked yet")
    if argument:
        return partial(repl.session.edit, argument)
    repl.begin = question
    return None


def undo(repl: Repl, argument: str) -> None:  # noqa: ARG001
    taken = repl.session.undo()
    if taken is None:
        raise UsageError("nothing has been asked yet")
    say(f"(taken back: “{beginning(taken['content'])}”)")


def copy_answer(repl: Repl, argument: str) -> None:  # noqa: ARG001
    answer = last_of(repl, "assistant")
    if answer is None:
        raise UsageError("there is no answer to copy yet")
    say(f"({len(answer)} characters {to_clipboard(harmless(answer), send)})")


def to_clipboard(text: str, write: Write) -> str:
    """Copy, and say how; write sends raw text to the terminal.

    Raises LlamacliError where neither way is there.
    """
    import pyperclip

    try:
        pyperclip.copy(text)
    except pyperclip.PyperclipException:
        if os.environ.get("TERM", "dumb") == "dumb":
            raise LlamacliError(
                "there is no clipboard here: install xclip or wl-clipboard"
            ) from None
        code = base64.b64encode(text.encode(errors="replace")).decode()
        write(f"\x1b]52;c;{code}\a")  # OSC 52, see xterm's control sequences
        return "sent to the terminal's clipboard by OSC 52, which some terminals ignore"
    return "copied to the clipboard"


def model(repl: Repl, argument: str) -> None:
    if argument:
        load_model(repl, argument)
        repl.session.use_engine(repl.engine)
        remember(repl)
    say(model_line(repl.engine))
    if not argument:
        say(f"there are: {', '.join(map(printable, complete_models('')))}")


def set_value(repl: Repl, argument: str) -> None:
    name, _, text = argument.replace("=", " ", 1).partition(" ")
    if not name:
        now = values(repl.session)
        say(columns([(name, now[name], about) for name, about in SETTINGS.items()], "lll"))
        return
    name = {"temp": "temperature"}.get(name, name).replace("_", "-")
    if name not in SETTINGS:
        raise UsageError(f"there is no setting {name}; there are {', '.join(SETTINGS)}")
    if text.strip():
        change(repl.session, name, text.strip())
        remember(repl)
    say(f"{name}  {values(repl.session)[name]}")


def file(repl: Repl, argument: str) -> None:
    if not argument:
        raise UsageError("name a file: /file PATH")
    path = expanded(argument.strip("\"'"))
    if path == Path("-"):
        raise UsageError("stdin is where you type; name a file")
    text = read_file(path)
    repl.attached.append(text)
    count = len(repl.engine.vocabulary.tokenize(text.text))
    say(f"({printable(text.name)}, {count} tokens, goes below your next message)")


def tokens(repl: Repl, argument: str) -> None:
    if argument:
        say(f"{len(repl.engine.vocabulary.tokenize(argument))} tokens")
        return
    session, size = repl.session, repl.engine.context_size
    used = used_tokens(repl)
    say(f"{used} tokens in the prompt so far, of a context of {size}; {size - used} are left")
    if session.forgotten:
        say(f"the {session.forgotten} oldest messages no longer count")


def stats(repl: Repl, argument: str) -> None:  # noqa: ARG001
    from llamacli.answer import summary

    if repl.session.last is not None:
        say(f"last answer: {summary(repl.session.last)}")
    results = repl.results
    tokens = sum(r.answer_tokens for r in results)
    seconds = sum(r.decode_seconds for r in results)
    cached = sum(r.cached_tokens for r in results)
    read = sum(r.prompt_tokens for r in results) - cached
    say(
        f"all answers since the start: {len(results)}, of {tokens} tokens at "
        f"{tokens / seconds if seconds else 0.0:.1f}/s; for their prompts {read} tokens were read "
        f"and {cached} found in the cache"
    )


def leave(repl: Repl, argument: str) -> None:  # noqa: ARG001
    repl.leaving = True


def last_of(repl: Repl, role: str) -> str | None:
    """The last message of that role."""
    texts = [m["content"] for m in repl.session.messages if m["role"] == role]
    return texts[-1] if texts else None
