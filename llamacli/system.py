"""What differs between Linux, macOS and Windows; nothing else asks which of them it is.

Keys are held back, writes given up, processes ended, and a process's limits and memory looked at.
What differs for files is in convert.
"""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

# For os.open: a link isn't followed, and programs that are started don't get the file.
NO_FOLLOW = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)

WINDOWS = sys.platform == "win32"
MACOS = sys.platform == "darwin"


if sys.platform == "win32":
    import _thread
    import msvcrt

    ENDING = (signal.SIGTERM,)  # signals that ask the program to leave
    # For a child that Ctrl-C isn't for: CREATE_NEW_PROCESS_GROUP.
    APART: dict[str, Any] = {"creationflags": 0x200}

    @contextlib.contextmanager
    def alarm(ring: Callable[[], None]) -> Iterator[Callable[[float], None]]:
        """As below; what C does in the main thread isn't ended, ring is called after it."""
        timers: list[threading.Timer] = []
        before: list[Any] = []

        def start(seconds: float) -> None:
            if not before:
                before.append(signal.signal(signal.SIGBREAK, lambda *_: ring()))
            for earlier in timers:
                earlier.cancel()
            timer = threading.Timer(seconds, _thread.interrupt_main, (signal.SIGBREAK,))
            timer.daemon = True
            timers.append(timer)
            timer.start()

        try:
            yield start
        finally:
            for timer in timers:
                timer.cancel()
            for handler in before:
                signal.signal(signal.SIGBREAK, handler)

    @contextlib.contextmanager
    def held_keys(on_continue: Callable[[], None] = lambda: None) -> Iterator[None]:  # noqa: ARG001
        """Windows' console keeps what is typed for the next prompt by itself."""
        yield

    def signal_main(number: int) -> None:
        """Have the main thread run the handler of a signal."""
        _thread.interrupt_main(signal.Signals(number))

    def limit_memory(nbytes: int) -> None:
        """Windows has no limit that a process could set itself."""

    def limit_time(seconds: int) -> None:
        """Windows has no limit that a process could set itself; whoever started it watches it."""

    def end_group(leader: int, *, at_once: bool = False) -> None:  # noqa: ARG001
        """End a process that was started APART, and its children.

        Theirs stay known as such when it has ended, as long as who started it keeps its handle:
        until then no other process gets its number.
        """
        import psutil

        ending = [leader]
        below: dict[int, list[int]] = {}
        for process in psutil.process_iter(["ppid"]):
            below.setdefault(process.info["ppid"], []).append(process.pid)
        for one in ending:
            ending += [child for child in below.get(one, ()) if child not in ending]
        for one in reversed(ending):
            with contextlib.suppress(psutil.Error):
                psutil.Process(one).kill()

    def drop_keys() -> None:
        """Forget what was typed and isn't read yet."""
        while msvcrt.kbhit():
            msvcrt.getwch()

    def wait_for_line() -> None:
        """Ctrl-C ends a read of the console, whenever it comes."""

    def let_wait(descriptor: int) -> None:
        """Nobody sets otherwise there."""

    def address_space_limit() -> int | None:
        """Bytes that this process may map; None where nothing limits them."""
        return None

    def peak_resident() -> int:
        """Bytes of this process's peak resident memory."""
        import psutil

        return int(psutil.Process().memory_info().peak_wset)

else:
    import resource

    APART: dict[str, Any] = {"start_new_session": True}  # for a child that Ctrl-C isn't for
    ENDING = (signal.SIGTERM, signal.SIGHUP)  # a terminal that goes sends the second

    @contextlib.contextmanager
    def alarm(ring: Callable[[], None]) -> Iterator[Callable[[float], None]]:
        """Gives what sets a time, in seconds, after which ring is called in the main thread.

        It is for the main thread, where a handler of signals may set it, too. What is set is
        forgotten when another time is, and when the block ends. Where whoever called the program
        has set a time for it, by alarm and exec say, that one stays instead.
        """
        before: list[Any] = []

        def start(seconds: float) -> None:
            if not before:
                if signal.getitimer(signal.ITIMER_REAL)[0]:
                    return
                before.append(signal.signal(signal.SIGALRM, lambda *_: ring()))
            signal.setitimer(signal.ITIMER_REAL, seconds)

        try:
            yield start
        finally:
            for handler in before:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, handler)

    @contextlib.contextmanager
    def held_keys(on_continue: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Keys typed meanwhile wait, unseen, for the next prompt; Ctrl-C and Ctrl-Z still work.

        on_continue is called after the process was stopped and goes on, when other programs may
        have written to the terminal.
        """
        import termios

        before = termios.tcgetattr(sys.stdin)
        hidden = termios.ECHO
        if os.environ.get("TERM") != "dumb":  # where a line is edited by its keys, Ctrl-D is one
            hidden |= termios.ICANON

        def hide() -> None:
            mode = termios.tcgetattr(sys.stdin)
            mode[3] &= ~hidden
            termios.tcsetattr(sys.stdin, termios.TCSANOW, mode)

        def resume(*_: Any) -> None:
            with contextlib.suppress(termios.error):  # in the background: it is another's terminal
                hide()
            on_continue()

        held = signal.signal(signal.SIGCONT, resume)
        try:
            hide()
            yield
        finally:
            signal.signal(signal.SIGCONT, held)
            with contextlib.suppress(termios.error):  # a terminal that went
                # Ctrl-S would hold up what comes next, and Linux ends by the second what the first
                # began, not what the key did.
                termios.tcflow(sys.stdout, termios.TCOOFF)
                termios.tcflow(sys.stdout, termios.TCOON)
                termios.tcsetattr(sys.stdin, termios.TCSANOW, before)

    def signal_main(number: int) -> None:
        """Have the main thread run the handler of a signal."""
        signal.pthread_kill(threading.main_thread().ident or 0, number)

    def _limit(what: int, most: int) -> None:
        with contextlib.suppress(ValueError, OSError):
            hard = resource.getrlimit(what)[1]
            resource.setrlimit(what, (most if hard < 0 else min(most, hard), hard))

    def limit_memory(nbytes: int) -> None:
        """Limit this process's address space, where the system lets it: macOS doesn't."""
        _limit(resource.RLIMIT_AS, nbytes)

    def limit_time(seconds: int) -> None:
        """Limit this process to so many more seconds of the processor, or one more."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)

    def end_group(leader: int, *, at_once: bool = False) -> None:
        """End a process that was started as its group's leader, and who else is in the group.

        They are asked by SIGTERM, or killed where at_once is set.
        """
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL if at_once else signal.SIGTERM)

    def drop_keys() -> None:
        """Forget what was typed and isn't read yet."""
        import termios

        with contextlib.suppress(termios.error, OSError, ValueError):
            termios.tcflush(sys.stdin, termios.TCIFLUSH)

    def wait_for_line() -> None:
        """Until something was typed on the terminal that stdin is; the main thread's.

        A signal whose handler raises ends it. It wouldn't end a read that it comes just before.
        """
        import select

        reading, writing = os.pipe()
        for end in (reading, writing):
            os.set_blocking(end, False)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        try:
            while sys.stdin not in select.select([sys.stdin, reading], [], [])[0]:
                os.read(reading, 64)  # of signals that raise nothing
        finally:
            signal.set_wakeup_fd(before)
            for end in (reading, writing):
                os.close(end)

    def let_wait(descriptor: int) -> None:
        """Have reads and writes wait again, where another program has set otherwise."""
        if not os.get_blocking(descriptor):
            os.set_blocking(descriptor, True)

    def address_space_limit() -> int | None:
        """Bytes that this process may map; None where nothing limits them."""
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        return None if most == resource.RLIM_INFINITY else most

    def peak_resident() -> int:
        """Bytes of this process's peak resident memory.

        Linux's getrusage would count the parent's memory from before the exec as well.
        """
        status = Path("/proc/self/status")
        if not MACOS and status.exists():
            for line in status.read_text(encoding="ascii").splitlines():
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) * 1024
        unit = 1 if MACOS else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def user() -> int:
    """The number of the user, as the owner of files has it; on Windows they have none."""
    return os.getuid() if hasattr(os, "getuid") else 0


def takes_more(descriptor: int) -> bool:
    """Whether a write there would go on: its reader takes what is written. Windows doesn't tell."""
    import select

    return not WINDOWS and bool(select.select([], [descriptor], [], 0)[1])


def pipe_error(error: OSError) -> OSError:
    """What a failed write to stdout is: BrokenPipeError, where nobody reads it.

    Windows says of such a pipe only that the argument is invalid.
    """
    return BrokenPipeError(*error.args) if WINDOWS and error.errno == errno.EINVAL else error


def claim_port(listening: "socket.socket") -> None:
    """Before it is bound: a port whose last connections linger can be had at once.

    Windows lets other programs listen there, too, unless one says otherwise.
    """
    import socket

    mode = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
    listening.setsockopt(socket.SOL_SOCKET, mode, 1)


def unix_socket() -> "socket.socket":
    """Raises OSError where the system has no Unix sockets."""
    import socket

    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, "this system has no Unix sockets")
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
