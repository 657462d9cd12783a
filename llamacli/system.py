"""What differs between Linux, macOS and Windows; nothing else asks which of them it is.

Files are locked and put on the disk for good, keys held back, writes given up, and a process's
limits and memory looked at.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

LOCKED_BYTE = 1 << 40  # Windows locks bytes; one that no file has keeps none from being read

WINDOWS = sys.platform == "win32"
MACOS = sys.platform == "darwin"


def allowed_processors() -> int:
    """The processors, with SMT those of a core each, that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def sync_folder(folder: Path) -> None:
    """Keep a new file's name through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


if sys.platform == "win32":
    import _thread
    import msvcrt

    SHARED_LIBRARY = "{}.dll"

    def lock(file: BinaryIO) -> None:
        """Lock a file until it is closed.

        Raises BlockingIOError where another process has it, OSError where nothing can be locked.
        """
        at = file.tell()
        file.seek(LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from None
        finally:
            file.seek(at)

    def sync(descriptor: int) -> None:
        """Have a file's bytes on the disk before this returns."""
        os.fsync(descriptor)

    @contextlib.contextmanager
    def alarm(number: int) -> Iterator[Callable[[float], None]]:
        """What is given sets a time, in seconds, after which the signal's handler is called.

        It may be called earlier anew, and is forgotten at the block's end.
        """
        timers: list[threading.Timer] = []

        def start(seconds: float) -> None:
            timers.append(threading.Timer(seconds, _thread.interrupt_main, (number,)))
            timers[-1].daemon = True
            timers[-1].start()

        try:
            yield start
        finally:
            for timer in timers:
                timer.cancel()

    ALARM = signal.SIGBREAK

    @contextlib.contextmanager
    def held_keys(on_continue: Callable[[], None] = lambda: None) -> Iterator[None]:  # noqa: ARG001
        """Windows' console keeps what is typed for the next prompt by itself."""
        yield

    def limit_process(memory: int, seconds: int) -> None:
        """Windows has no limits that a process could set itself; whoever started it watches it."""

    def address_space_limit() -> int | None:
        """Bytes that this process may map; None where nothing limits them."""
        return None

    def peak_resident() -> int:
        """Bytes of this process's peak resident memory."""
        import psutil

        return int(psutil.Process().memory_info().peak_wset)

else:
    import fcntl
    import resource

    SHARED_LIBRARY = "lib{}.dylib" if sys.platform == "darwin" else "lib{}.so"
    ALARM = signal.SIGALRM

    def lock(file: BinaryIO) -> None:
        """Lock a file until it is closed.

        Raises BlockingIOError where another process has it, OSError where nothing can be locked.
        """
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def sync(descriptor: int) -> None:
        """Have a file's bytes on the disk before this returns; macOS's fsync leaves them to it."""
        if sys.platform == "darwin":
            with contextlib.suppress(OSError):  # a file system that knows fsync alone
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
                return
        os.fsync(descriptor)

    @contextlib.contextmanager
    def alarm(number: int) -> Iterator[Callable[[float], None]]:  # noqa: ARG001 - Windows' takes it
        """What is given sets a time, in seconds, after which the signal's handler is called.

        It may be called earlier anew, and is forgotten at the block's end.
        """
        try:
            yield lambda seconds: [signal.setitimer(signal.ITIMER_REAL, seconds), None][1]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    @contextlib.contextmanager
    def held_keys(on_continue: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Keys typed meanwhile wait, unseen, for the next prompt; Ctrl-C and Ctrl-Z still work.

        on_continue is called after the process was stopped and goes on, when other programs may
        have written to the terminal.
        """
        import termios

        before = termios.tcgetattr(sys.stdin)

        def hide() -> None:
            mode = termios.tcgetattr(sys.stdin)
            mode[3] &= ~termios.ECHO
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
            termios.tcflow(sys.stdout, termios.TCOON)  # after Ctrl-S, what comes next would wait
            termios.tcsetattr(sys.stdin, termios.TCSANOW, before)

    def limit_process(memory: int, seconds: int) -> None:
        """Limit this process to bytes of address space, and seconds of the processor.

        Each where the system lets it: macOS refuses the first.
        """
        for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds)):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(what, (most, most))

    def address_space_limit() -> int | None:
        """Bytes that this process may map; None where nothing limits them."""
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        return None if most == resource.RLIM_INFINITY else most

    def peak_resident() -> int:
        """Bytes of this process's peak resident memory.

        Linux's getrusage would count the parent's memory from before the exec as well.
        """
        if sys.platform == "linux":
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) * 1024
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
