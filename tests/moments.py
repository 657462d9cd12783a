"""The real program in a process that a signal meets at a chosen moment: its nth Python call.

A moment by number, not by time, is the same on every machine, and none is too short to be met.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import gguf
import jinja2.sandbox
import numpy as np
import rich.progress
import rich.table

import convert
import llamacli.cli
import llamacli.engine.engine
from tests.standins.waiting import PATIENCE

PRELOADED = (gguf, jinja2.sandbox, np, rich.progress, rich.table, convert, llamacli.engine.engine)
END = "the end"


@dataclass(frozen=True)
class Ended:
    """code is negative where a signal ended it; calls is None where it didn't get to its end.

    entered has the call by which a function of the program was first entered, by its name.
    """

    code: int | None
    said: str
    calls: int | None
    entered: dict[str, int]


def run(
    folder: Path,
    arguments: Sequence[str | Path],
    *,
    number: signal.Signals = signal.SIGINT,
    moment: int = -1,
    memory: int | None = None,
) -> Ended:
    """Run llamacli; the signal arrives at its call number moment, if there is one.

    memory is how many bytes of address space it may take beyond those it has after a first run.
    """
    from tests.standins.program import CONTEXT  # here alone: what it forks from imports this module

    folder.mkdir(exist_ok=True)
    for name in ("said", "entered"):
        (folder / name).unlink(missing_ok=True)
    given = (folder, [*map(str, arguments)], number, moment, memory)
    child = CONTEXT.Process(target=_main, args=(*given, dict(os.environ)))
    child.start()
    child.join(PATIENCE)
    if child.is_alive():
        child.kill()
        raise AssertionError(f"llamacli hangs after {number.name} at call {moment}")
    kept, said = folder / "entered", (folder / "said").read_text(errors="replace")
    entered = json.loads(kept.read_text()) if kept.exists() else {}
    return Ended(child.exitcode, said, entered.get(END), entered)


def _main(
    folder: Path,
    arguments: list[str],
    number: signal.Signals,
    moment: int,
    memory: int | None,
    environment: dict[str, str],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDWR)
    for source, target in ((nothing, 0), (nothing, 1), (said, 2)):
        os.dup2(source, target)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    if memory is not None:
        import resource

        with suppress(SystemExit):  # once without a limit, so that all libraries are loaded
            llamacli.cli.main(arguments)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    events = ("call", "c_call") if number == signal.SIGKILL else ("call",)  # where Python looks
    calls = 0
    entered: dict[str, int] = {}

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        if event not in events:
            return
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib"):
            return  # its weak references' callbacks drop exceptions
        calls += 1
        if code.co_name not in entered:
            entered[code.co_name] = calls
        if calls == moment:
            sys.setprofile(None)
            os.kill(os.getpid(), number)

    sys.setprofile(count)
    try:
        llamacli.cli.main(arguments)
    finally:
        sys.setprofile(None)
        if calls != moment:
            (folder / "entered").write_text(json.dumps({**entered, END: calls}))
