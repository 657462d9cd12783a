"""What a chat on the terminal holds beside the conversation, and how it speaks to its user."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llamacli.answer import Chunk, Result
from llamacli.chat import ChatEngine, ChatSession, Conversation
from llamacli.engine import Engine
from llamacli.errors import LlamacliError
from llamacli.machine import physical_cores
from llamacli.prompt import Text
from llamacli.terminal import printable

if TYPE_CHECKING:
    from llamacli.chat import SessionLog
    from llamacli.mcp_client import Servers

PROMPT = ">>> "
FENCE = '"""'

Ask = Callable[..., Iterator[Chunk]]  # a session's send, regenerate or edit, to be given its hooks


@dataclass
class Repl:
    """model is what -m takes for the engine's model. open_model checks another one by such a name,
    calls what it is given, and loads it.

    log is None where the chat isn't saved; keeps is False where nothing at all is to be. attached
    are files that go with the next message. That message begins as begin, where it isn't None, and
    replaces the last question. results are those of all answers since the start. read has the user
    type, below a prompt, a text that begins so.
    """

    session: ChatSession
    model: str
    open_model: Callable[[str, Callable[[], None]], ChatEngine]
    log: "SessionLog | None" = None
    keeps: bool = True
    plain: bool = False
    attached: list[Text] = field(default_factory=list)
    begin: str | None = None
    leaving: bool = False
    servers: "Servers | None" = None
    read: Callable[[str, str], str] = lambda prompt, begin: begin  # noqa: ARG005
    results: list[Result] = field(default_factory=list)
    counted: tuple[Conversation, ChatEngine, int] | None = None  # the last one: see used_tokens

    @property
    def engine(self) -> ChatEngine:
        return self.session.engine


def device(engine: ChatEngine) -> str:
    """What computes: GPUs by their names, else the CPU; or a server."""
    if not isinstance(engine, Engine):
        return "by llamacli serve"
    if engine.gpus:
        return ", ".join(printable(gpu.description) for gpu in engine.gpus)
    threads = engine.settings.threads or physical_cores()
    return f"CPU, {threads} thread{'s' * (threads != 1)}"


def model_line(engine: ChatEngine) -> str:
    return (
        f"{printable(engine.name)}, {engine.quantization}, "
        f"{engine.context_size} tokens of context, {device(engine)}{_adapters(engine)}"
    )


def _adapters(engine: ChatEngine) -> str:
    """The LoRA adapters that it computes with, and their scales."""
    used = [one for one in engine.settings.adapters if one.scale]
    return "".join(f", with {printable(one.path.stem)}:{one.scale:g}" for one in used)


def heading(repl: Repl) -> str:
    """Two lines: the model, and where the chat is saved."""
    saved = f"session {repl.log.name}" if repl.log is not None else "not saved"
    return f"{model_line(repl.engine)}\n{saved}; /help lists the commands, Ctrl-D leaves"


def used_tokens(repl: Repl) -> int:
    """How much of the context the conversation takes: as the last answer to it told, or counted,
    once where nothing has changed."""
    session, counted = repl.session, repl.counted
    if counted is None or counted[:2] != (session.conversation, repl.engine):
        try:
            count = len(session.prompt_tokens()) if session.messages else 0
        except LlamacliError:  # of the template, which the next question tells
            count = len(repl.engine.tokens)
        repl.counted = counted = (session.conversation, repl.engine, count)
    return counted[2]


def status_line(repl: Repl) -> str:
    """What stands below the line that is being typed."""
    engine, last = repl.engine, repl.session.last
    used = used_tokens(repl)
    parts = [
        f"{printable(engine.name)} {engine.quantization}",
        f"{used} of {engine.context_size} tokens ({100 * used // engine.context_size} %)",
    ]
    if last is not None:
        parts.append(f"{last.tokens_per_second:.1f} tokens/s")
    parts.append(repl.log.name if repl.log is not None else "not saved")
    return "  ·  ".join(parts)


def beginning(text: str, most: int = 60) -> str:
    """How a text begins, on one line."""
    line = printable(" ".join(text[: 4 * most].split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def is_open(text: str) -> bool:
    """Whether a block that began with three quotes still waits for the three at its end."""
    text = text.strip()
    return text.startswith(FENCE) and (len(text) < 2 * len(FENCE) or not text.endswith(FENCE))


def unquoted(line: str) -> str:
    """What was typed, or what stands in it between three quotes."""
    text = line.strip()
    if not text.startswith(FENCE) or is_open(text):
        return line
    return text.removeprefix(FENCE).removesuffix(FENCE).strip("\n")
