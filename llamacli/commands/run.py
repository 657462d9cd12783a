"""llamacli run: one prompt, one answer on stdout."""

import sys
from typing import Annotated

import typer

from llamacli.commands import options
from llamacli.commands.session import open_engine, show_answer
from llamacli.errors import UsageError


def run(
    prompt: Annotated[
        str | None, typer.Argument(help="The instruction; piped text is put below it.")
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
    threads: options.Threads = None,
) -> None:
    """Answer one prompt, given as an argument, on stdin, or both."""
    from llamacli.chat import encode_turns
    from llamacli.generate import generate
    from llamacli.prompt import encode_raw
    from llamacli.sampling import SamplingSettings

    if special and not raw:
        raise UsageError("--special goes with --raw")
    if raw and system is not None:
        raise UsageError("--raw takes no system prompt: the text is completed as it stands")
    text = join_input(prompt, piped_text())
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
        if raw:
            tokens = encode_raw(engine.vocabulary, text, special=special)
        else:
            messages = [{"role": "user", "content": text}]
            if system is not None:
                messages.insert(0, {"role": "system", "content": system})
            tokens = encode_turns(engine, messages)
        answer = generate(engine, tokens, sampling, max_tokens=max_tokens, stop=stop or ())
        show_answer(answer, sys.stdout)


def piped_text() -> str:
    """All of stdin where it is a pipe or a file, else nothing."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"stdin is not UTF-8 at byte {error.start}") from None


def join_input(prompt: str | None, piped: str) -> str:
    """The instruction, a blank line, then the piped text; either may be missing, not both."""
    parts = [part for part in (prompt, piped) if part and part.strip()]
    if not parts:
        raise UsageError("there is no prompt: give one as an argument or on stdin")
    return "\n\n".join(parts)
