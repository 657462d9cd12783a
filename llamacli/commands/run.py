"""llamacli run: one prompt, one answer on stdout."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llamacli import answer as answers, engine as engines, prompt as prompts, shape as shapes
from llamacli.commands import groups, options
from llamacli.commands.answering import answer, answer_with_servers, encode_messages
from llamacli.commands.by_server import adapter_fields, answer_by_server, model_for
from llamacli.commands.printing import print_text
from llamacli.errors import DoesNotFitError, LlamacliError, UsageError
from llamacli.home import check_name
from llamacli.models import engine_for, model_path
from llamacli.terminal import notice

LEAST_ANSWER = 512  # tokens that --truncate leaves for an answer without -n, at most a quarter


def run(
    *,
    prompt: Annotated[
        str | None, typer.Argument, "The instruction; piped text is put below it."
    ] = None,
    file: Annotated[
        list[Path] | None, "-f", "Put this file's text below, too; may be given again."
    ] = None,
    model: options.Model = None,
    system: options.System = None,
    raw: Annotated[bool, "Complete the text as it stands, without a template."] = False,
    special: Annotated[bool, "With --raw: spellings of control tokens become them."] = False,
    ending: groups.Ending,
    sampling: groups.Sampling,
    shape: groups.Shape,
    tools: groups.Tools,
    mcp: groups.Mcp,
    context: options.Context = None,
    adapter: options.Adapter = None,
    machine: groups.Machine,
    drafts: groups.Drafts,
    truncate: Annotated[
        Literal["head", "middle", "tail"] | None,
        "Cut this part off a text that is longer than the context.",
    ] = None,
    errors: options.Errors = "strict",
    cache: Annotated[
        str | None, "Keep what was read of the prompt's start on disk, under a name or `auto`."
    ] = None,
    show_prompt: Annotated[bool, "Print the prompt as the model would read it."] = False,
    fail_on_length: Annotated[bool, "Exit code 1 where the answer was cut."] = False,
    date: options.Date = None,
    no_server: options.NoServer = False,
    output: groups.Output,
) -> None:
    """Answer one prompt, given as an argument, on stdin, in files, or all of them.

    The prompt is the instruction, a blank line, and the text; several texts get a line
    `==> NAME <==` each.
    """
    if special and not raw:
        raise UsageError("--special goes with --raw")
    if raw and (system is not None or date):
        raise UsageError("--raw takes no system prompt or date: the text is completed as it stands")
    grammar = shape.read(ending)
    if tools.used and (raw or truncate or cache or grammar):
        raise UsageError("--tools and --results go with no --raw, --truncate, --cache or shape")
    if (mcp.allow or mcp.mcp is not None) and (not mcp.mcp or tools.used or show_prompt):
        raise UsageError("--mcp and --allow go together, without --tools and --show-prompt")
    if mcp.mcp and (raw or truncate or cache or grammar):
        raise UsageError("--mcp goes with no --raw, --truncate, --cache or shape")
    path = model_path(model, quiet=output.quiet)
    machine.check(context, drafts, adapter, path)
    if cache is not None:
        check_name(cache, "a cache's")
    whole = fail_on_length or grammar is not None
    if mcp.mcp:
        from llamacli.chat import ChatSession

        named = mcp.read()
        question = prompts.gather(prompt, file or (), errors, quiet=output.quiet).joined()
        asked_for = machine.asked(context, "short", drafts, adapter)
        with model_for(path, machine, asked_for, output, alone=no_server) as engine:
            chat = ChatSession(
                engine,
                sampling.settings(engine),
                max_tokens=ending.max_tokens,
                stop=tuple(ending.stop or ()),
                date=date,
                output_limit=tools.tool_output_limit,
            )
            if system is not None:
                chat.set_system(system)
            with mcp.opened(named) as servers:
                assert servers is not None
                chat.offer, chat.most_calls = tools.calling(servers.tools), mcp.max_calls
                _check_whole(answer_with_servers(chat, servers, question, output), whole)
        return
    given, calling = prompts.Input(""), None
    messages: list[prompts.Message] = []
    if tools.used:
        listed, messages = tools.listed(), tools.messages()
        if not messages or prompt or file:
            read = partial(prompts.gather, stdin=not messages, quiet=output.quiet)
            messages += read(prompt, file or (), errors).messages()
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        calling = tools.calling(listed, sum(len(m.get("tool_calls") or ()) for m in messages))
    else:
        given = prompts.gather(prompt, file or (), errors, quiet=output.quiet)
    if not (no_server or truncate or cache or show_prompt or date):
        asked: dict[str, Any] = {"messages": messages or given.messages(system)}
        if raw:
            asked = {"prompt": given.joined(), "special": special}
        asked |= adapter_fields(adapter)
        result = answer_by_server(
            path, machine, context, drafts.draft, asked, sampling, ending, output, shape, calling
        )
        if result is not None:
            _check_whole(result, whole)
            return
    asked_for = machine.asked(context, "short", drafts, adapter)
    with engine_for(path, asked_for, quiet=output.quiet) as engine:
        settings = sampling.settings(engine)

        def encode(parts: prompts.Input) -> list[int]:
            if raw:
                return prompts.encode_raw(engine.vocabulary, parts.joined(), special=special)
            return encode_messages(engine, messages or parts.messages(system), calling, date)

        if truncate is None:
            tokens = encode(given)
        else:
            room = engine.context_size
            room -= min(ending.max_tokens or LEAST_ANSWER, room // 4)
            tokens, missing = prompts.fit(given, encode, engine.vocabulary, room, truncate)
            if missing and not output.quiet:
                lost = f"{missing} tokens of its {truncate} were cut"
                notice(f"the text is too long for the context: {lost}")
        try:
            most = engine.most_tokens(len(tokens), ending.max_tokens)
        except DoesNotFitError as error:
            if not tools.used:
                error.hint += ", as --truncate head, middle or tail does"
            raise
        if show_prompt:
            print_text(engine.vocabulary.text_of(tokens) + "\n")
            return
        if shape.choice:
            shapes.check_choices(shape.choice, engine.vocabulary, most)
        saver = None
        if cache is not None:
            saver = _cached(engine, cache, tokens, given, encode, system, output.quiet)
        result = answer(
            engine,
            tokens,
            settings,
            output,
            shape=grammar,
            calling=calling,
            max_tokens=ending.max_tokens,
            stop=ending.stop or (),
        )
        if saver is not None:
            saver()
    _check_whole(result, whole)


def _check_whole(result: "answers.Result", wanted: bool) -> None:
    if wanted and result.finish_reason == "length":
        raise LlamacliError(
            f"the answer was cut after {result.answer_tokens} tokens; raise -n or -c"
        )


def _cached(
    engine: "engines.Engine",
    name: str,
    tokens: list[int],
    given: "prompts.Input",
    encode: "prompts.Encode",
    system: str | None,
    quiet: bool,
) -> "Callable[[], None] | None":
    """Load what is cached of the prompt; what saves its stable start where not all of it was."""
    prefix = prompts.cache.stable_prefix(given, encode, system)
    path = prompts.cache.cache_path(engine, name, prefix)
    prompts.cache.limit_bytes()  # a wrong one is told before an answer
    problem = prompts.cache.load(engine, path, tokens)
    if problem and not quiet:
        notice(f"the cache {path.name} is not used: {problem}")
    if engine.tokens[: len(prefix)] == prefix:
        return None

    def save() -> None:
        try:
            prompts.cache.store(engine, path, prefix)
        except OSError as error:
            if not quiet:
                notice(f"the cache {path} can't be written: {error.strerror}")

    return save
