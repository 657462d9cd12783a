"""An answer on stdout, as run gives it, and chat where it isn't on a terminal: text, or JSON."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llamacli import answer as answers, chat, engine as engines, prompt
from llamacli.commands import groups
from llamacli.errors import UsageError
from llamacli.terminal import as_json, notice, shortened, writer

if TYPE_CHECKING:
    from llamacli import mcp_client
    from llamacli.shape import Grammar
    from llamacli.terminal import Write


def encode_messages(
    engine: "engines.Engine",
    messages: "list[prompt.Message]",
    calling: "answers.Calling | None" = None,
    date: "datetime | None" = None,
) -> list[int]:
    """The prompt's tokens by the model's template, with the tools that there are."""
    definitions = [tool.given for tool in calling.tools] if calling else None
    return prompt.encode_turns(engine, messages, tools=definitions, date=date)


def answer(
    engine: "engines.Engine",
    tokens: list[int],
    sampling: "engines.SamplingSettings",
    output: groups.Output,
    *,
    shape: "Grammar | None" = None,
    calling: "answers.Calling | None" = None,
    max_tokens: int | None = None,
    stop: "Sequence[str]" = (),
) -> "answers.Result":
    """Answer on stdout in that style; after a signal, what was said until then."""
    start = {"model": engine.name, "quantization": engine.quantization}
    constraint = answers.constraint_for(
        engine, len(tokens), max_tokens, shape=shape, calling=calling
    )

    def chunks(interrupted: "Callable[[], bool]") -> "Iterator[answers.Chunk]":
        return answers.generate(
            engine,
            tokens,
            sampling,
            max_tokens=max_tokens,
            stop=stop,
            constraint=constraint,
            spelled=calling.spelled(engine.vocabulary) if calling is not None else (),
            interrupted=interrupted,
            on_progress=answers.progress(output.quiet),
        )

    return tell(chunks, {**start, "prompt_tokens": len(tokens)}, output, calling)


def tell(
    chunks_until: "Callable[[Callable[[], bool]], Iterator[answers.Chunk]]",
    start: dict[str, Any],
    output: groups.Output,
    calling: "answers.Calling | None" = None,
    more: "Callable[[], dict[str, Any]]" = dict,
) -> "answers.Result":
    """Write an answer's chunks on stdout; start has the model, its quantization, prompt_tokens.

    chunks_until gets what says that a signal has come, after which the chunks end. The calls of a
    calling one, as they are written in its chunks, stand in the JSON, else below the text, a line
    each. more gives what JSON has besides, at the end.
    """
    head = {name: start[name] for name in ("model", "quantization")}
    started = time.perf_counter()
    with answers.interrupts() as arrived:
        write = arrived.around(writer(sys.stdout))

        def write_json(value: dict[str, Any]) -> None:
            write(as_json(value) + "\n")

        chunks = chunks_until(lambda: bool(arrived))
        if calling is not None:
            chunks = calling.parted(chunks, lines=output.form == "text")
        if output.form == "text":
            result = answers.write_text(chunks, write, stream=not output.no_stream)
        elif output.form == "jsonl":
            write_json({"event": "start", **start})
            result = _last(chunks, lambda text: write_json({"event": "text", "text": text}))
        else:
            result = _last(chunks, lambda _: None)
        seconds = time.perf_counter() - started
        fields = {**head, **answers.result_fields(result, seconds), **more()}
        if calling is not None:
            fields |= calling.fields(result.text)
        if output.form == "json":
            write_json(fields)
        elif output.form == "jsonl":
            write_json({"event": "end", **fields})
        if output.verbose:
            notice(answers.summary(result))
    return result


def _last(chunks: "Iterator[answers.Chunk]", on_text: "Write") -> "answers.Result":
    result: answers.Result | None = None
    for chunk in chunks:
        if chunk.text:
            on_text(chunk.text)
        result = chunk.result
    assert result is not None
    return result


def answer_with_servers(
    session: "chat.ChatSession",
    servers: "mcp_client.Servers",
    question: str,
    output: groups.Output,
) -> "answers.Result":
    """The last answer on stdout; JSON has the calls and their results as well.

    Raises UsageError where the model calls a tool that isn't allowed.
    """
    calls: list[dict[str, Any]] = []

    def chunks(interrupted: "Callable[[], bool]") -> "Iterator[answers.Chunk]":
        def perform(name: str, arguments: dict[str, Any]) -> str:
            if name not in servers.allowed:
                raise UsageError(
                    f"the model calls {name} with {shortened(as_json(arguments))}, which isn't "
                    f"allowed; allow it by --allow {name}"
                )
            if not output.quiet:
                notice(f"calls {name} with {shortened(as_json(arguments), 300)}")
            outcome = servers.call(name, arguments, interrupted)
            calls.append({"name": name, "arguments": arguments, "result": outcome.text})
            for server in servers.changed():
                notice(f"{server} has other tools now; those that it had at the start are offered")
            return outcome.text

        return chat.final_answer(session, question, perform, interrupted=interrupted)

    engine = session.engine
    start = {"model": engine.name, "quantization": engine.quantization}
    return tell(chunks, start, output, more=lambda: {"calls": calls})
