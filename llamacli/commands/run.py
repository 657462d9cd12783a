"""llamacli run: one prompt, one answer on stdout."""

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llamacli.commands import options
from llamacli.commands.session import lively, notice, open_engine
from llamacli.errors import DoesNotFitError, LlamacliError, UsageError

if TYPE_CHECKING:
    from llamacli.engine import Engine
    from llamacli.generate import Result
    from llamacli.grammar import Grammar
    from llamacli.input import Input

LEAST_ANSWER = 512  # tokens that --truncate leaves for an answer without -n, at most a quarter


@dataclass(frozen=True)
class Manner:
    """How an answer is given: text, one JSON object, or JSON events; and what stderr hears."""

    form: Literal["text", "json", "jsonl"] = "text"
    stream: bool = True
    quiet: bool = False
    verbose: bool = False


def run(
    prompt: Annotated[
        str | None, typer.Argument(help="The instruction; piped text is put below it.")
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="Put this file's text below, too; may be given again."),
    ] = None,
    model: options.Model = None,
    system: options.System = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Complete the text as it stands, without a template.")
    ] = False,
    special: Annotated[
        bool,
        typer.Option("--special", help="With --raw: spellings of control tokens become them."),
    ] = False,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repeat_penalty: options.RepeatPenalty = None,
    seed: options.Seed = None,
    context: options.Context = None,
    stop: options.Stop = None,
    schema: options.Schema = None,
    grammar: options.GrammarFile = None,
    choice: options.Choice = None,
    threads: options.Threads = None,
    json_object: Annotated[
        bool, typer.Option("--json", help="Give one JSON object: text, counts, rates, seed.")
    ] = False,
    json_events: Annotated[
        bool, typer.Option("--jsonl", help="Stream JSON lines: start, text…, end.")
    ] = False,
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Write the answer once, at its end.")
    ] = False,
    fail_on_length: Annotated[
        bool, typer.Option("--fail-on-length", help="Exit code 1 where the answer was cut.")
    ] = False,
    truncate: Annotated[
        Literal["head", "middle", "tail"] | None,
        typer.Option(help="Cut this part off a text that is longer than the context."),
    ] = None,
    errors: Annotated[
        Literal["strict", "replace"],
        typer.Option(help="Refuse bytes that aren't UTF-8, or replace them by U+FFFD."),
    ] = "strict",
    show_prompt: Annotated[
        bool, typer.Option("--show-prompt", help="Print the prompt as the model would read it.")
    ] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Answer one prompt, given as an argument, on stdin, in files, or all of them.

    The prompt is the instruction, a blank line, and the text; several texts get a line
    `==> NAME <==` each.
    """
    from llamacli.input import gather
    from llamacli.sampling import SamplingSettings

    if special and not raw:
        raise UsageError("--special goes with --raw")
    if raw and system is not None:
        raise UsageError("--raw takes no system prompt: the text is completed as it stands")
    if json_object and json_events:
        raise UsageError("--json and --jsonl exclude each other")
    form: Literal["text", "json", "jsonl"]
    form = "json" if json_object else "jsonl" if json_events else "text"
    manner = Manner(form, not no_stream, quiet, verbose)
    shape = None
    if schema or grammar or choice:
        shape = _read_shape(schema, grammar, choice or (), stop or ())
    given = gather(prompt, file or (), errors)
    with open_engine(model, context, threads) as engine:
        sampling = SamplingSettings.from_metadata(
            engine.file.metadata,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
        )

        def encode(parts: "Input") -> list[int]:
            return encode_input(engine, parts, system=system, raw=raw, special=special)

        room = engine.context_size
        if truncate is None:
            tokens = encode(given)
            _check_room(len(tokens), room)
        else:
            room -= min(max_tokens or LEAST_ANSWER, room // 4)
            tokens = _fit(engine, given, encode, room, truncate, quiet)
        if show_prompt:
            _write(engine.vocabulary.text_of(tokens) + "\n")
            return
        if choice:
            _check_choices(choice, engine, len(tokens), max_tokens)
        result = answer(
            engine, tokens, sampling, manner, shape=shape, max_tokens=max_tokens, stop=stop or ()
        )
    if (fail_on_length or shape is not None) and result.finish_reason == "length":
        raise LlamacliError(
            f"the answer was cut after {result.answer_tokens} tokens; raise -n or -c"
        )


def encode_input(
    engine: "Engine",
    given: "Input",
    *,
    system: str | None = None,
    raw: bool = False,
    special: bool = False,
) -> list[int]:
    """The prompt's tokens: by the model's template, or as the text stands."""
    from llamacli.chat import encode_turns
    from llamacli.prompt import encode_raw

    if raw:
        return encode_raw(engine.vocabulary, given.joined(), special=special)
    messages = [{"role": "user", "content": given.joined()}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return encode_turns(engine, messages)


def answer(
    engine: "Engine",
    tokens: list[int],
    sampling: Any,
    manner: Manner,
    *,
    shape: "Grammar | None" = None,
    max_tokens: int | None = None,
    **settings: Any,
) -> "Result":
    """Answer on stdout in that manner; after a signal, what was said until then.

    settings are generate's.
    """
    from llamacli.generate import generate
    from llamacli.interrupts import interrupts
    from llamacli.output import result_fields, write_events, write_json, write_text, writer

    head = {"model": engine.name, "quantization": engine.quantization}
    started = time.perf_counter()
    with (
        interrupts() as arrived,
        constraint(engine, shape, len(tokens), max_tokens) as constrained,
    ):
        write = arrived.around(writer(sys.stdout))
        chunks: Iterator[Any] = generate(
            engine,
            tokens,
            sampling,
            interrupted=lambda: bool(arrived),
            on_progress=_progress(manner),
            max_tokens=max_tokens,
            constraint=constrained,
            **settings,
        )
        if manner.form == "text":
            result = write_text(chunks, write, stream=manner.stream)
        elif manner.form == "jsonl":
            result = write_events(chunks, write, {**head, "prompt_tokens": len(tokens)})
        else:
            result = [chunk.result for chunk in chunks][-1]
        seconds = time.perf_counter() - started
        fields = result_fields(result, seconds)
        if manner.form == "json":
            write_json(write, {**head, **fields})
        elif manner.form == "jsonl":
            write_json(write, {"event": "end", **head, **fields})
        if manner.verbose:
            _tell(result)
    return result


def constraint(
    engine: "Engine", shape: "Grammar | None", prompt: int, max_tokens: int | None
) -> Any:
    """A context with the constraint for an answer to that many tokens, or with None."""
    if shape is None:
        return nullcontext()
    from llamacli.constraint import constrained

    return constrained(engine.vocabulary, shape, _most(engine, prompt, max_tokens))


def _most(engine: "Engine", prompt: int, max_tokens: int | None) -> int:
    """The tokens that an answer can have, as generate counts them."""
    room = engine.context_size - prompt + 1
    return room if max_tokens is None else min(room, max_tokens)


def _read_shape(schema: Any, grammar: Any, choice: Any, stop: Any) -> "Grammar | None":
    from llamacli.shape import read_shape

    return read_shape(schema, grammar, choice, stop)


def _check_choices(words: list[str], engine: "Engine", prompt: int, max_tokens: int | None) -> None:
    from llamacli.shape import check_choices

    check_choices(words, engine.vocabulary, _most(engine, prompt, max_tokens))


def _check_room(tokens: int, room: int) -> None:
    if tokens > room:
        raise DoesNotFitError(
            f"the prompt has {tokens} tokens, the context {room}; raise the context with -c, or "
            "shorten the text, as --truncate head, middle or tail does"
        )


def _fit(
    engine: "Engine", given: "Input", encode: Any, room: int, cut: Any, quiet: bool
) -> list[int]:
    from llamacli.input import fit

    tokens, missing = fit(given, encode, engine.vocabulary, room, cut)
    if missing and not quiet:
        notice(f"the text is too long for the context: {missing} tokens of its {cut} were cut")
    return tokens


def _progress(manner: Manner) -> Any:
    """A line on a terminal's stderr that counts a long prompt's tokens and goes when it is read."""
    if manner.quiet or not lively(sys.stderr):
        return None

    def show(done: int, total: int) -> None:
        if total > 1024:
            line = f"reading the prompt: {done} of {total} tokens" if done < total else ""
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    return show


def _tell(result: "Result") -> None:
    read = result.prompt_tokens - result.cached_tokens
    rate = read / result.prefill_seconds if result.prefill_seconds else 0.0
    notice(
        f"prompt {result.prompt_tokens} tokens, {result.cached_tokens} of them cached, read at "
        f"{rate:.1f}/s; answer {result.answer_tokens} tokens at {result.tokens_per_second:.1f}/s; "
        f"{result.finish_reason}; seed {result.seed}"
    )


def _write(text: str) -> None:
    from llamacli.output import writer

    writer(sys.stdout)(text)


def piped_text() -> str:
    """All of stdin where it is a pipe or a file, else nothing."""
    from llamacli.input import read_stdin

    return read_stdin()
