"""llamacli chat: a conversation on the terminal."""

import sys
from dataclasses import replace
from datetime import datetime
from typing import Annotated

import typer

from llamacli.commands import groups, options
from llamacli.commands.by_server import adapter_fields, answer_by_server, why_not
from llamacli.commands.mcp import Mcp
from llamacli.commands.run import answer_piped, turns
from llamacli.errors import UsageError
from llamacli.models import engine_for, model_path
from llamacli.terminal import notice


def chat(
    *,
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
    ending: groups.Ending,
    sampling: groups.Sampling,
    mcp: Mcp,
    calls: groups.Calls,
    context: options.Context = None,
    adapter: options.Adapter = None,
    machine: groups.Machine,
    drafts: groups.Drafts,
    session: Annotated[
        str | None, typer.Option(help="Save the new chat under this name.  [default: the time]")
    ] = None,
    no_save: Annotated[bool, typer.Option("--no-save", help="Save nothing.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Show answers as they come, not as Markdown.")
    ] = False,
    no_server: options.NoServer = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell whether a server answers, or why not.")
    ] = False,
    date: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The template's today.  [default: today]"),
    ] = None,
) -> None:
    """Talk to a model; Ctrl-C ends an answer, Ctrl-D or /exit the chat.

    Where stdin or stdout isn't a terminal, it answers what is piped in, as run does.
    """
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if name is not None and not resume:
        raise UsageError(f"a model is named by -m; a saved chat is gone on with by --resume {name}")
    if resume and not terminal:
        raise UsageError("--resume needs a terminal, as stdin and stdout; in scripts use run")
    if session is not None and (resume or no_save):
        raise UsageError("--session names a new chat to save: not with --resume or --no-save")
    asked = machine.asked(context, "long", drafts, adapter)
    if mcp.mcp and not terminal:
        raise UsageError("chat --mcp needs a terminal; in scripts use run --mcp")
    if not terminal:
        from llamacli.answer import OutputStyle
        from llamacli.prompt import gather

        path, style = model_path(model), OutputStyle(verbose=verbose)
        given = gather(None, (), "strict")
        prompt = {"messages": turns(given, system), **adapter_fields(adapter)}
        if not (no_server or date) and answer_by_server(
            path, machine, context, prompt, sampling, ending, style
        ):
            return
        with engine_for(path, asked) as engine:
            settings = sampling.settings(engine)
            answer_piped(engine, given, settings, ending, style, system=system, date=date)
        return

    from llamacli.repl import Wanted, start_repl

    source = call.get_parameter_source("model")
    wanted = Wanted(
        model=model,
        named=source is not None and source.name == "COMMANDLINE",
        asked=asked,
        settings={**vars(sampling), **vars(ending)},
        system=system,
        date=date,
        plain=plain,
        save=not no_save,
        name=session,
        no_server="--no-server" if no_server else why_not(machine),
        verbose=verbose,
    )
    if not mcp.mcp:
        start_repl(wanted, resume=resume, session=name)
        return
    from llamacli.answer import Calling
    from llamacli.mcp_client import open_servers, read_servers

    with open_servers(read_servers(mcp.mcp), mcp.mcp_timeout, mcp.allow or ()) as servers:
        for problem in servers.problems:
            notice(problem)
        offer = None
        if servers.tools:
            parallel = not calls.no_parallel_calls
            offer = Calling(servers.tools, calls.tool_choice, parallel, calls.tool_threshold)
        wanted = replace(
            wanted,
            servers=servers,
            offer=offer,
            most_calls=mcp.max_calls,
            output_limit=calls.tool_output_limit,
        )
        start_repl(wanted, resume=resume, session=name)
