"""llamacli chat: a conversation on the terminal."""

import sys
from datetime import datetime
from typing import Annotated

import typer

from llamacli.commands import options
from llamacli.commands.run import answer_piped
from llamacli.errors import UsageError
from llamacli.models import engine_for


def chat(
    call: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="SESSION", help="With --resume: which one.  [default: the last]"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", "-r", help="Go on with a saved chat: --resume [SESSION].")
    ] = False,
    model: options.Model = None,
    system: options.System = None,
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
    device: options.Device = None,
    gpu_layers: options.GpuLayers = None,
    kv_type: options.KVType = None,
    flash_attention: options.FlashAttention = None,
    no_tune: options.NoTune = False,
    overcommit: options.Overcommit = False,
    session: Annotated[
        str | None, typer.Option(help="Save the new chat under this name.  [default: the time]")
    ] = None,
    no_save: Annotated[bool, typer.Option("--no-save", help="Save nothing.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Show answers as they come, not as Markdown.")
    ] = False,
    date: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The template's today.  [default: today]"),
    ] = None,
) -> None:
    """Talk to a model; Ctrl-C ends an answer, Ctrl-D or /exit the chat.

    Where stdin or stdout isn't a terminal, it answers what is piped in, as run does.
    """
    from llamacli.engine import Asked, SamplingSettings

    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if name is not None and not resume:
        raise UsageError(f"a model is named by -m; a saved chat is gone on with by --resume {name}")
    if resume and not terminal:
        raise UsageError("--resume needs a terminal, as stdin and stdout; in scripts use run")
    if session is not None and (resume or no_save):
        raise UsageError("--session names a new chat to save: not with --resume or --no-save")
    sampling = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repeat_penalty": repeat_penalty,
        "seed": seed,
    }
    asked = Asked(
        context=context,
        threads=threads,
        device=device,
        gpu_layers=gpu_layers,
        flash_attention=flash_attention,
        kv_type=kv_type,
        tune=not no_tune,
        overcommit=overcommit,
        profile="long",
    )
    if not terminal:
        with engine_for(model, asked) as engine:
            settings = SamplingSettings.from_metadata(engine.file.metadata, **sampling)
            answer_piped(
                engine, settings, system=system, max_tokens=max_tokens, stop=stop or (), date=date
            )
        return

    from llamacli.repl import Wanted, start_repl

    source = call.get_parameter_source("model")
    wanted = Wanted(
        model=model,
        named=source is not None and source.name == "COMMANDLINE",
        asked=asked,
        settings={**sampling, "max_tokens": max_tokens, "stop": stop},
        system=system,
        date=date,
        plain=plain,
        save=not no_save,
        name=session,
    )
    start_repl(wanted, resume=resume, session=name)
