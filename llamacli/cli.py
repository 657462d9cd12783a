"""The command line: one function a verb (see llamacli/commands), one place for errors."""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from types import CodeType, FrameType
from typing import Annotated, NoReturn

import typer

from llamacli import __version__
from llamacli.errors import LlamacliError, OutputError, Terminated, UsageError, named
from llamacli.system import ENDING, let_wait, signal_main
from llamacli.terminal import DEBUG, complain, debugging, writer

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
CLOSED_PIPE = 141  # 128 + SIGPIPE
ENDED = {INTERRUPTED, *(128 + number for number in ENDING)}  # by a signal
QUIET = {0, CLOSED_PIPE, *ENDED}  # need no words

COMPLETION = ("--show-completion", "--install-completion")  # typer's: take a shell, or guess it
WITH_DEFAULTS = ("run", "batch", "chat", "tune", "bench")  # take those of the user's models.toml
# These take those of other machines alone.
WITH_WORKERS = ("serve", "devices", "verify", "quality", "imatrix")
TOGETHER = ("workers", "split", "worker_timeout")

EPILOG = (
    "Exit codes: 0 done; 1 unexpected failure; 2 wrong usage; 3 a model, checkpoint or file that "
    "is not valid; 4 not found or not reachable; 5 does not fit (memory, context); 6 the output "
    "can't be written; 130 interrupted."
)

app = typer.Typer(
    help="Convert Llama 3 checkpoints to GGUF and talk to them on a laptop.",
    epilog=EPILOG,
    rich_markup_mode=None,  # importing rich would cost every command 0.1 s
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from llamacli.commands.printing import print_text
        from llamacli.machine import versions

        packages = {"llamacli": __version__, **versions()}
        print_text("".join(f"{name} {version}\n" for name, version in packages.items()))
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the versions of llamacli, llama-cpp-python and llama.cpp.",
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show llama.cpp's log, and tracebacks of errors.")
    ] = False,
) -> None:
    if context.invoked_subcommand in (*WITH_DEFAULTS, *WITH_WORKERS):
        from llamacli.models import defaults

        given = defaults()
        together = {name: given[name] for name in TOGETHER if name in given}
        context.default_map = dict.fromkeys(WITH_DEFAULTS, given)
        context.default_map |= dict.fromkeys(WITH_WORKERS, together)


# Each is a function in a module of llamacli.commands, both of that name.
COMMANDS = (
    *("convert", "pull", "run", "batch", "serve", "worker", "chat", "tune", "bench", "devices"),
    *("show", "tokens", "list", "path", "rm", "verify", "quality", "imatrix"),
)


def register(arguments: Sequence[str]) -> None:
    """Import the command that is called; for help and suggestions all of them, in 50 ms."""
    from llamacli.commands.options import spread

    called = _called(arguments)
    for name in [called] if called in COMMANDS else COMMANDS:
        module = import_module(f"llamacli.commands.{name}")
        app.command(name)(spread(getattr(module, name)))


def _called(arguments: Sequence[str]) -> str:
    """The word where a command's name belongs."""
    return next((word for word in arguments if not word.startswith("-")), "")


def start() -> NoReturn:
    """The program: main, and out at once.

    The system takes a process's memory back 30 ms sooner than Python and llama.cpp tidy it up.
    """
    if "--debug" not in sys.argv and not sys.warnoptions:
        warnings.simplefilter("ignore")  # Python's and numpy's, for those who write programs
    try:
        main()
    except SystemExit as done:
        with suppress(OSError, ValueError):  # it may be closed; main has flushed stdout
            sys.stderr.flush()
        os._exit(done.code if isinstance(done.code, int) else 1)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and raise SystemExit with its exit code; every error becomes a line."""
    try:
        code = _run(arguments)
        _take_late_signals()
    except (KeyboardInterrupt, Terminated) as late:  # while the last was said
        code = _exit_code(late)
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    arguments = _debug_first(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--debug"]:
        os.environ[DEBUG] = "1"
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # see __main__
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _terminate)
    sys.unraisablehook = deliver_again
    closed = _replace_closed_streams()
    _let_streams_wait()
    writer(sys.stdout)  # help has characters that a locale may lack
    try:
        if closed:
            raise OutputError("stdout is closed; give it a pipe, a file or a terminal")
        register(arguments)
        if len(arguments) == 2 and arguments[0] in COMPLETION:
            os.environ["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"  # one is named
        code = app(arguments or ["--help"], prog_name="llamacli", standalone_mode=False) or 0
        if code not in ENDED:
            sys.stdout.flush()
    except BaseException as raised:
        error = _as_usage(named(raised), arguments)
        code = _exit_code(error)
        if code not in QUIET:
            with suppress(OSError):  # nobody may be reading
                complain(raised if debugging() else error)
    _close_stdout(flush=code not in ENDED)
    return code


def _replace_closed_streams() -> bool:
    """Stand-ins for streams that the caller has closed (>&-); whether stdout is one of them."""
    closed = sys.stdout is None
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    return closed


def _let_streams_wait() -> None:
    """Undo what other programs set on a pipe or terminal that they share with this one: reads and
    writes that fail where they would have to wait, and lose what was written."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # closed
            let_wait(stream.fileno())


def _debug_first(arguments: Sequence[str]) -> list[str]:
    """--debug is taken anywhere before --, not only before the command."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "--debug" not in arguments[:end]:
        return list(arguments)
    return ["--debug", *(a for i, a in enumerate(arguments) if a != "--debug" or i > end)]


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated(number)


def deliver_again(lost: "sys.UnraisableHookArgs") -> None:
    """A signal comes again whose handler raised where that is dropped, as in a callback from C."""
    if isinstance(lost.exc_value, KeyboardInterrupt | Terminated):
        number = signal.SIGINT if lost.exc_type is KeyboardInterrupt else lost.exc_value.args[0]
        threading.Timer(0.01, _signal_outside, (number,)).start()
    else:
        sys.__unraisablehook__(lost)


def _signal_outside(number: int) -> None:
    """Once the main thread is out of deliver_again, where what is raised is dropped as well."""
    main = threading.main_thread().ident or 0
    while _is_within(sys._current_frames().get(main), deliver_again.__code__):
        time.sleep(0.01)
    signal_main(number)


def _take_late_signals() -> None:
    """Let those come that deliver_again has sent for: nothing else waits for them at the end."""
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer) and thread.function == _signal_outside:
            thread.join()


def _is_within(frame: FrameType | None, code: CodeType) -> bool:
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


def _as_usage(error: BaseException, arguments: Sequence[str]) -> BaseException:
    """What typer finds wrong with a command line, as one of ours."""
    if not isinstance(error, typer.TyperException):
        return error
    command = _called(arguments)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    message = message.replace("valid int range", "valid whole number")
    hint = f"see `llamacli {command} --help`" if command in COMMANDS else "see `llamacli --help`"
    if command in ("run", "serve") and "extra argument" in message:  # as others take a model
        hint = "a prompt is one argument, in quotes; " * (command == "run")
        hint += "a model is named by -m"
    return UsageError(message.rstrip("."), hint=hint)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, LlamacliError | typer.Exit):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED
    if isinstance(error, Terminated):
        return int(128 + error.args[0])
    if isinstance(error, BrokenPipeError):
        return CLOSED_PIPE
    if isinstance(error, SystemExit):  # shell completion leaves so
        return error.code if isinstance(error.code, int) else 0
    return 1


def _close_stdout(*, flush: bool) -> None:
    """Let the interpreter's last flush of a closed pipe fail here, silently, not at exit.

    After a signal nothing is flushed: what is left is what couldn't be written.
    """
    try:
        if flush:
            sys.stdout.flush()
            return
    except (OSError, ValueError):
        pass
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
