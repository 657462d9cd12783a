"""llamacli run: one prompt, one answer on stdout."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llamacli.answer import Manner, answer, most_tokens
from llamacli.commands import options
from llamacli.errors import DoesNotFitError, LlamacliError, UsageError
from llamacli.models import engine_for
from llamacli.terminal import notice

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from llamacli.answer import Result
    from llamacli.engine import Engine
    from llamacli.prompt import Input
    from llamacli.shape import Grammar

LEAST_ANSWER = 512  # tokens that --truncate leaves for an answer without -n, at most a quarter


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
    device: options.Device = None,
    gpu_layers: options.GpuLayers = None,
    kv_type: options.KVType = None,
    flash_attention: options.FlashAttention = None,
    no_tune: options.NoTune = False,
    overcommit: options.Overcommit = False,
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
    cache: Annotated[
        str | None,
        typer.Option(
            help="Keep what was read of the prompt's start on disk, under a name or `auto`."
        ),
    ] = None,
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
    from llamacli.engine import Asked
    from llamacli.prompt import gather

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
    asked = Asked(
        context=context,
        threads=threads,
        device=device,
        gpu_layers=gpu_layers,
        flash_attention=flash_attention,
        kv_type=kv_type,
        tune=not no_tune,
        overcommit=overcommit,
    )
    with engine_for(model, asked, quiet=quiet) as engine:
        from llamacli.engine import SamplingSettings

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
        saver = None
        if cache is not None:
            saver = _cached(engine, cache, tokens, given, encode, system, quiet)
        result = answer(
            engine, tokens, sampling, manner, shape=shape, max_tokens=max_tokens, stop=stop or ()
        )
        if saver is not None:
            saver()
    if (fail_on_length or shape is not None) and result.finish_reason == "length":
        raise LlamacliError(
            f"the answer was cut after {result.answer_tokens} tokens; raise -n or -c"
        )


def answer_piped(
    engine: "Engine",
    sampling: Any,
    *,
    system: str | None = None,
    max_tokens: int | None = None,
    stop: Sequence[str] = (),
    date: "datetime | None" = None,
) -> "Result":
    """What chat does where stdin or stdout isn't a terminal: run on what is piped in."""
    from llamacli.prompt import gather

    tokens = encode_input(engine, gather(None, (), "strict"), system=system, date=date)
    _check_room(len(tokens), engine.context_size)
    return answer(engine, tokens, sampling, Manner(), max_tokens=max_tokens, stop=stop)


def encode_input(
    engine: "Engine",
    given: "Input",
    *,
    system: str | None = None,
    raw: bool = False,
    special: bool = False,
    date: "datetime | None" = None,
) -> list[int]:
    """The prompt's tokens: by the model's template, or as the text stands."""
    from llamacli.prompt import encode_raw, encode_turns

    if raw:
        return encode_raw(engine.vocabulary, given.joined(), special=special)
    messages = [{"role": "user", "content": given.joined()}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return encode_turns(engine, messages, date=date)


def _read_shape(schema: Any, grammar: Any, choice: Any, stop: Any) -> "Grammar | None":
    from llamacli.shape import read_shape

    return read_shape(schema, grammar, choice, stop)


def _check_choices(words: list[str], engine: "Engine", prompt: int, max_tokens: int | None) -> None:
    from llamacli.shape import check_choices

    check_choices(words, engine.vocabulary, most_tokens(engine, prompt, max_tokens))


def _check_room(tokens: int, room: int) -> None:
    if tokens > room:
        raise DoesNotFitError(
            f"the prompt has {tokens} tokens, the context {room}; raise the context with -c, or "
            "shorten the text, as --truncate head, middle or tail does"
        )


def _fit(
    engine: "Engine", given: "Input", encode: Any, room: int, cut: Any, quiet: bool
) -> list[int]:
    from llamacli.prompt import fit

    tokens, missing = fit(given, encode, engine.vocabulary, room, cut)
    if missing and not quiet:
        notice(f"the text is too long for the context: {missing} tokens of its {cut} were cut")
    return tokens


def _cached(
    engine: "Engine",
    name: str,
    tokens: list[int],
    given: "Input",
    encode: Any,
    system: str | None,
    quiet: bool,
) -> "Callable[[], None] | None":
    """Load what is cached of the prompt; what saves its stable start where not all of it was."""
    from llamacli.prompt import cache as prompt_cache

    prefix = prompt_cache.stable_prefix(given, encode, system)
    path = prompt_cache.cache_path(engine, name, prefix)
    prompt_cache.limit_bytes()  # a wrong one is told before an answer
    problem = prompt_cache.load(engine, path, tokens)
    if problem and not quiet:
        notice(f"the cache {path.name} is not used: {problem}")
    if engine.tokens[: len(prefix)] == prefix:
        return None

    def save() -> None:
        try:
            prompt_cache.store(engine, path, prefix)
        except OSError as error:
            if not quiet:
                notice(f"the cache {path} can't be written: {error.strerror}")

    return save


def _write(text: str) -> None:
    from llamacli.terminal import writer

    writer(sys.stdout)(text)
