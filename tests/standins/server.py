"""llamacli serve in a process of its own, for tests that ask it."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2

from tests.standins.program import PROGRAM, Program, start_program
from tests.standins.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from openai import OpenAI

# One client for all: making one reads the certificates of the machine. Connections are not shared.
WEB = httpx2.Client(
    verify=False, timeout=PATIENCE, limits=httpx2.Limits(max_keepalive_connections=0)
)


@dataclass
class Serving:
    """A server that answers at url; log holds what it has said."""

    child: Program | subprocess.Popen[bytes]
    runtime: Path
    url: str = ""
    log: list[str] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        return self.runtime / "llamacli" / "serve.sock"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, key: str = "none") -> "OpenAI":
        import openai  # takes a second, as anthropic does: where they are used alone

        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE
        )

    def told(self) -> list[str]:
        """What it has said of all requests that had ended before, which it tells of in turn."""
        mark = f"/mark-{len(self.log)}"
        WEB.get(self.url + mark)
        wait_until(lambda: any(mark in line for line in self.log), self.child)
        return [*self.log]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.child.send_signal(number)
        return self.child.wait(PATIENCE)

    def memory(self) -> int:
        """Bytes that are resident."""
        text = Path(f"/proc/{self.child.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert match is not None
        return int(match[1]) * 1024


def changed(**seconds: float) -> tuple[str, str]:
    """Python's arguments for the program with other times of serve/run's."""
    change = "; ".join(f"r.{name} = {value}" for name, value in seconds.items())
    return "-c", f"import llamacli.serve.run as r; {change}; import llamacli.cli as c; c.start()"


# HASTY gives running answers a second after a signal, PATIENT as long as they take.
USUAL, HASTY, PATIENT = PROGRAM[1:], changed(GRACE=1.0, AFTER=PATIENCE), changed(GRACE=1e6)


@contextmanager
def serving(
    *arguments: str | Path,
    home: Path | None = None,
    wait: bool = True,
    program: Sequence[str] = USUAL,
    **variables: str,
) -> Iterator[Serving]:
    """Started at a free port with one thread, and stopped at the end; variables are its
    environment's."""
    with tempfile.TemporaryDirectory(prefix="llamacli-") as runtime:
        environment = {**os.environ, **variables, "XDG_RUNTIME_DIR": runtime}
        if home is not None:
            environment["LLAMACLI_HOME"] = str(home)
        words = ["serve", "--port", "0", "--threads", "1", *map(str, arguments)]
        if program == USUAL:
            child = start_program(words, environment)
        else:
            command = [sys.executable, *program, *words]
            child = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
        server = Serving(child, Path(runtime))
        reader = threading.Thread(target=_read, args=(server,))
        reader.start()
        try:
            if wait:
                wait_until(lambda: bool(server.url) or child.poll() is not None)
                assert server.url, server.log
            yield server
        finally:
            if child.poll() is None:
                child.kill()
            child.wait(PATIENCE)
            reader.join()


def _read(server: Serving) -> None:
    assert server.child.stderr is not None
    with server.child.stderr as lines:
        for line in lines:
            server.log.append(line.decode(errors="replace").rstrip("\n"))
            if match := re.search(r" at (http://\S+?),? ", f"{server.log[-1]} "):
                server.url = server.url or match[1]
