"""The terminal while an answer comes: keys aren't echoed into it, Ctrl-Z and fg are noticed."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def held_keys(on_continue: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keys typed meanwhile wait, unseen, for the next prompt; Ctrl-C and Ctrl-Z still work.

    on_continue is called after the process was stopped and goes on, when other programs may have
    written to the terminal.
    """
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    before = termios.tcgetattr(sys.stdin)

    def hide() -> None:
        mode = termios.tcgetattr(sys.stdin)
        mode[3] &= ~termios.ECHO
        termios.tcsetattr(sys.stdin, termios.TCSANOW, mode)

    def resume(*_: Any) -> None:
        with suppress(termios.error):  # in the background (bg): the terminal is another's
            hide()
        on_continue()

    held = signal.signal(signal.SIGCONT, resume)
    try:
        hide()
        yield
    finally:
        signal.signal(signal.SIGCONT, held)
        with suppress(termios.error):  # a terminal that went
            termios.tcflow(sys.stdout, termios.TCOON)  # after Ctrl-S, what comes next would wait
            termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
