"""llamacli chat: a conversation on the terminal."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from llamacli import repl
from llamacli.commands import groups, options
from llamacli.commands.by_server import why_not
from llamacli.commands.printing import print_text
from llamacli.commands.run import run
from llamacli.errors import UsageError
from llamacli.home import expanded
from llamacli.terminal import notice


def chat(
    *,
    call: typer.Context,
    name: Annotated[
        str | None, typer.Argument, "<SESSION>", "With --resume: which one.  [default: the last]"
    ] = None,
    resume: Annotated[bool, "-r", "Go on with a saved chat: --resume [SESSION]."] = False,
    model: options.Model = None,
    system: options.System = None,
    ending: groups.Ending,
    sampling: groups.Sampling,
    mcp: groups.Mcp,
    calls: groups.Calls,
    context: options.Context = None,
    adapter: options.Adapter = None,
    machine: groups.Machine,
    drafts: groups.Drafts,
    session: Annotated[
        str | None, "Save the new chat under this name.  [default: the time]"
    ] = None,
    no_save: Annotated[bool, "Save nothing."] = False,
    export: Annotated[
        Path | None,
        "With --resume: write the saved chat to this file, JSON by its name, else "
        "Markdown, and leave; - is stdout.",
    ] = None,
    plain: Annotated[bool, "Show answers as they come, not as Markdown."] = False,
    no_server: options.NoServer = False,
    verbose: Annotated[bool, "-v", "Tell whether a server answers, or why not."] = False,
    date: options.Date = None,
) -> None:
    """Talk to a model; Ctrl-C ends an answer, Ctrl-D or /exit the chat.

    Where stdin or stdout isn't a terminal, it answers what is piped in, as run does.
    """
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if name is not None and not resume:
        raise UsageError(f"a model is named by -m; a saved chat is gone on with by --resume {name}")
    if export is not None:
        if not resume:
            raise UsageError("--export writes a saved chat: name it by --resume [SESSION]")
        _export(name, export)
        return
    if resume and not terminal:
        raise UsageError("--resume needs a terminal, as stdin and stdout; in scripts use run")
    if session is not None and (resume or no_save):
        raise UsageError("--session names a new chat to save: not with --resume or --no-save")
    if mcp.mcp and not terminal:
        raise UsageError("chat --mcp needs a terminal; in scripts use run --mcp")
    options.exclusive(mcp=mcp.mcp or None, tools=calls.tools)
    if not terminal:
        if sys.stdin.isatty():
            raise UsageError("chat needs a terminal as stdout, too; in scripts use run")
        run(
            model=model,
            system=system,
            ending=ending,
            sampling=sampling,
            shape=groups.Shape(),
            tools=groups.Tools(**vars(calls)),
            mcp=mcp,
            context=context,
            adapter=adapter,
            machine=machine,
            drafts=drafts,
            errors=None,
            date=date,
            no_server=no_server,
            output=groups.Output(verbose=verbose),
        )
        return
    asked = machine.asked(context, "long", drafts, adapter)
    tools, source = calls.listed(), call.get_parameter_source("model")
    with mcp.opened(mcp.read()) as servers:
        wanted = repl.Wanted(
            model=model,
            named=source is not None and source.name == "COMMANDLINE",
            asked=asked,
            settings={**vars(sampling), **vars(ending)},
            system=system,
            date=date,
            plain=plain,
            save=not no_save,
            name=session,
            servers=servers,
            offer=calls.calling(servers.tools if servers else tools),
            most_calls=mcp.max_calls,
            output_limit=calls.tool_output_limit,
            no_server="--no-server" if no_server else why_not(machine, drafts.draft),
            verbose=verbose,
        )
        repl.start_repl(wanted, resume=resume, session=name)


def _export(name: str | None, path: Path) -> None:
    from llamacli.chat import export_chat, export_text, saved as sessions

    saved = sessions.look(name)
    for problem in saved.notices:
        notice(f"session {saved.name}: {problem}")
    messages = saved.conversation.messages
    if path == Path("-"):
        print_text(export_text(path, saved.head, messages))
    else:
        export_chat(expanded(str(path)), saved.head, messages)
