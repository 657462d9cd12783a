"""A process that renders strangers' chat templates, with limits on its time and memory.

The sandbox keeps a template from Python's insides, not from endless loops or gigabyte strings.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from llamacli.errors import InvalidModelError
from llamacli.system import APART

SECONDS = 2  # of processor time a prompt
PATIENCE = 20  # seconds on the clock; a busy machine may need more than SECONDS
START = 120  # seconds for Python to start in, before any of the template's time
MEMORY = 512 << 20  # bytes of address space
MAX_PROMPT = 64 << 20  # bytes of JSON that a rendered prompt may take, a line


class Overstepped(InvalidModelError):
    """A template took more than it has, or ended the process."""


@dataclass
class Worker:
    """A process that renders one prompt after another, if one runs, for one thread after another.

    After a limit was overstepped, or where it died, the next prompt gets a new one. It ends with
    the process that started it.
    """

    process: "subprocess.Popen[bytes] | None" = None
    ready: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def start(self) -> None:
        """Have a process that gets ready while something else is done."""
        with self._lock:
            self._start()

    def render(self, request: Mapping[str, Any]) -> str:
        """The rendered prompt; raises InvalidModelError as render_here does, and Overstepped."""
        with self._lock:
            self._start()
            try:
                text, error = json.loads(self._ask(json.dumps(request).encode() + b"\n"))
            except BaseException as problem:
                self._end()
                if isinstance(problem, OSError | ValueError | TypeError):
                    fault = "the chat template takes too much time or memory"
                    raise Overstepped(f"{fault}; it is broken or malicious") from None
                raise
        if error is not None:
            raise InvalidModelError(str(error))
        return str(text)

    def _start(self) -> None:
        if self.process is not None and self.process.poll() is None:
            return
        self._end()
        command = [sys.executable, "-I", "-c", CODE, json.dumps(sys.path)]
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nothing, **APART)

    def _end(self) -> None:
        process, self.process, self.ready = self.process, None, False
        if process is not None:
            process.kill()
            with process:
                pass  # closes its pipes

    def _ask(self, request: bytes) -> bytes:
        """The line that answers one. Raises OSError where the process ends over it."""
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        if not self.ready:
            self._within(START, process.stdout)
            self.ready = True
        process.stdin.write(request)
        process.stdin.flush()
        return self._within(PATIENCE, process.stdout)

    def _within(self, seconds: float, source: IO[bytes]) -> bytes:
        """A line of the process, which is killed if it takes longer."""
        assert self.process is not None
        timer = threading.Timer(seconds, self.process.kill)
        timer.daemon = True
        timer.start()
        try:
            line = source.readline(MAX_PROMPT)
        finally:
            timer.cancel()
        if not line.endswith(b"\n"):
            raise OSError("the process ended, or says too much")
        return line


# What the process does: imports, then for each request new limits on its time, and render_here.
CODE = f"""
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from llamacli.errors import InvalidModelError
from llamacli.prompt.environment import render_here
from llamacli.system import limit_memory, limit_time

limit_memory({MEMORY})
print("ready", flush=True)
while line := sys.stdin.buffer.readline():
    request = json.loads(line)
    limit_time({SECONDS})
    text = error = None
    try:
        text = render_here(**request)
    except InvalidModelError as refusal:
        error = str(refusal)
        if isinstance(refusal.__cause__, MemoryError):
            sys.exit()
    del line, request
    print(json.dumps([text, error]), flush=True)
    del text
"""

# One for the whole program, as llama.cpp's backend is: a chat's or a server's next prompt finds it.
WORKER = Worker()
