"""A process that reads mutants, one after another, under a limit of memory.

    python -m tests.fuzz.worker KIND FOLDER FIRST END

For each number it bends a file with a generator of that seed and runs the real program's main on
it. A JSON line on stdout tells how that ended; whoever waits for the line sees crashes and hangs.
"""

import contextlib
import gc
import json
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import cast

from llamacli import cli
from llamacli.answer import write_text
from llamacli.chat import export_text
from llamacli.chat.turns import ChatSession
from llamacli.commands.printing import print_text
from llamacli.engine.engine import Engine
from llamacli.engine.sampling import SamplingSettings
from llamacli.engine.settings import EngineSettings
from llamacli.repl.saved import continue_log, resume, show_end, show_sessions, use_settings
from llamacli.repl.state import Repl, heading
from llamacli.terminal import say, writer
from tests.fuzz.kinds import KINDS
from tests.fuzz.stored import Command
from tests.terminal import Screen

MEMORY = 1 << 30  # bytes beyond what the program takes before it reads a file
SECONDS = 60.0  # of the processor: a busy machine, and sanitizers, take far more than an idle one
EXPECTED = {0, 2, 3, 4, 5, 6}
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def main() -> None:
    name, folder, first, end = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    os.environ["LLAMACLI_HOME"] = str(folder / "store")
    os.environ["LLAMACLI_CONFIG"] = str(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TERM"] = "dumb"  # a terminal without bars and colours of ours
    kind = KINDS[name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    kind.prepare(folder)
    for command in kind.bend(Random(0), folder):  # so that all is imported
        run(command)
    if sys.platform == "linux":
        import resource

        limit = _address_space() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in range(first, end):
        commands = kind.bend(Random(f"{name} {number}"), folder)
        remove(folder / "out.gguf")
        started, codes, faults = time.process_time(), [], []
        for command in commands:
            code, fault = run(command)
            codes.append(code)
            if fault:
                faults.append(f"{' '.join(command)}: {fault}")
        seconds = time.process_time() - started
        if seconds > SECONDS * len(commands):
            faults.append(f"it took {seconds:.1f} s")
        print(json.dumps([number, codes, faults]), file=results, flush=True)


def remove(path: Path) -> None:
    """Objects that refer to each other may still map it, and a thread that frees the model as the
    program leaves; Windows removes no such file."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.main_thread():
                thread.join()
        gc.collect()
        path.unlink()


def run(command: Command) -> tuple[int, str]:
    """The exit code of the program's main, and what was wrong with how it ended."""
    if command[0] == "keep":
        shutil.copy(command[1], command[2])
        return 0, ""
    del cli.app.registered_commands[1:]  # main adds those that it needs; the first is ours
    out, err = Screen(), Screen()
    code = -1
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main(command)
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else -1
    said = err.text()
    lines = said.splitlines()
    if code not in EXPECTED:
        return code, f"exit code {code}: {said[-500:]}"
    if code and (not lines or not lines[-1].startswith("llamacli: ")):
        return code, f"exit code {code} without an error: {said[-500:]}"
    if len(said) > 10_000:
        return code, f"an error of {len(said)} characters: {said[:200]}"
    if CONTROLS.search(out.text() + said):
        return code, f"control characters in {(out.text() + said)[-500:]!r}"
    return code, ""


@cli.app.command(hidden=True)
def resume_session(model: str, name: str) -> None:
    """What `chat --resume` does and says, without the keys of a terminal that it wants."""
    show_sessions(cast(Repl, SimpleNamespace(log=None)), "")
    saved = resume(name, keep=True)
    with Engine(Path(model), EngineSettings(context=256, threads=1)) as engine:
        chat = ChatSession(engine, SamplingSettings())
        repl = Repl(chat, model, lambda *_: engine)
        use_settings(chat, {**saved.head.settings, "max_tokens": 2})
        continue_log(repl, saved)
        say(heading(repl))
        show_end(repl)
        write_text(chat.send("go on"), writer(sys.stdout))
        print_text(export_text(Path(name), saved.head, chat.messages))
    if repl.log is not None:
        repl.log.close()


def _address_space() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmSize:"):
            return int(line.split()[1]) << 10
    raise AssertionError("there is no VmSize")


if __name__ == "__main__":
    main()
