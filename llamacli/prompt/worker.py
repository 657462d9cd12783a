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

SECONDS = 2  # of processor time a prompt
PATIENCE = 20  # seconds on the clock; a busy machine may need more than SECONDS
START = 120  # seconds for Python to start in, before any of the template's time
MEMORY = 512 << 20  # bytes of address space
MAX_PROMPT = 64 << 20  # bytes of JSON that a rendered prompt may take
SIZE = 8  # bytes of the length in front of each request and answer


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
                answer = json.loads(self._ask(json.dumps(request).encode()))
                text, error = answer["text"], answer["error"]
            except BaseException as problem:
                self._end()
                if isinstance(problem, OSError | ValueError | KeyError | TypeError):
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
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)

    def _end(self) -> None:
        process, self.process, self.ready = self.process, None, False
        if process is not None:
            process.kill()
            with process:
                pass  # closes its pipes

    def _ask(self, request: bytes) -> bytes:
        """The answer's bytes. Raises OSError where the process ends over it."""
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        if not self.ready:
            self._within(START, process.stdout, SIZE)
            self.ready = True
        process.stdin.write(len(request).to_bytes(SIZE, "big") + request)
        process.stdin.flush()
        size = int.from_bytes(self._within(PATIENCE, process.stdout, SIZE), "big")
        if size > MAX_PROMPT:
            raise ValueError(size)
        return self._within(PATIENCE, process.stdout, size)

    def _within(self, seconds: float, source: IO[bytes], size: int) -> bytes:
        """That many bytes of the process, which is killed if they take longer."""
        assert self.process is not None
        timer = threading.Timer(seconds, self.process.kill)
        timer.daemon = True
        timer.start()
        try:
            data = source.read(size)
        finally:
            timer.cancel()
        if len(data) < size:
            raise OSError("the process ended")
        return data


# What the process does: imports, then for each request new limits on its time, and render_here.
CODE = f"""
import json, signal, sys
sys.path[:] = json.loads(sys.argv[1])
signal.signal(signal.SIGINT, signal.SIG_IGN)
from llamacli.errors import InvalidModelError
from llamacli.prompt.environment import render_here
from llamacli.system import limit_memory, limit_time

def send(data):
    sys.stdout.buffer.write(len(data).to_bytes({SIZE}, "big") + data)
    sys.stdout.buffer.flush()

limit_memory({MEMORY})
sys.stdout.buffer.write(bytes({SIZE}))
sys.stdout.buffer.flush()
while size := int.from_bytes(sys.stdin.buffer.read({SIZE}), "big"):
    request = json.loads(sys.stdin.buffer.read(size))
    limit_time({SECONDS})
    text = error = None
    try:
        text = render_here(**request)
    except InvalidModelError as refusal:
        error = str(refusal)
        if isinstance(refusal.__cause__, MemoryError):
            sys.exit()
    del request
    send(json.dumps({{"text": text, "error": error}}).encode())
    del text
"""

# One for the whole program, as llama.cpp's backend is: a chat's or a server's next prompt finds it.
WORKER = Worker()
