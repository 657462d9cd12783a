"""The server under load, beside llama-server of the same commit with the same settings.

    python -m bench.serve [--model FILE] [--parallel 8] [--peer] [--soak 1000] [load gaps soak]

Throughput and the time to the first token at 1, 4 and 8 clients, with prompts that share nothing
and with a shared start; the gaps between tokens of three streams while a long prompt comes in; and
a soak: requests from 64 connections, a third of which hang up in the middle. --peer measures
llama-server, too, compiled where it isn't there yet. On busy cores the figures mean nothing.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil

from bench.llama_cpp_tools import tool
from llamacli.gguf import check_llama, read_gguf

PROMPT, ANSWER, SHARED, LONG = 128, 64, 1000, 4000
CONNECTIONS = 64


@dataclass
class Served:
    """A server at a port, and the token that would end an answer."""

    name: str
    port: int
    pid: int
    end: int = 0

    def post(self, path: str, body: dict[str, Any]) -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        found = json.loads(response.read())
        assert response.status == 200, found
        return found

    def memory(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)


@dataclass
class Times:
    """Of one stream: when it was asked, and when each piece came."""

    asked: float
    pieces: list[float] = field(default_factory=list)

    @property
    def first(self) -> float:
        return self.pieces[0] - self.asked

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.pieces, self.pieces[1:], strict=False)]


def stream(server: Served, prompt: list[int], most: int, leave: int | None = None) -> Times:
    """An answer's times; with leave it hangs up after so many pieces."""
    body = {"prompt": prompt, "max_tokens": most, "stream": True, "temperature": 0,
            "logit_bias": {str(server.end): -100}}  # fmt: skip
    connection = HTTPConnection("127.0.0.1", server.port, timeout=600)
    times = Times(time.perf_counter())
    connection.request("POST", "/v1/completions", json.dumps(body),
                       {"Content-Type": "application/json"})  # fmt: skip
    response = connection.getresponse()
    assert response.status == 200, response.read()
    done = False
    for line in response:
        if line.startswith(b"data: [DONE]"):
            done = True
        elif line.startswith(b"data: "):
            assert b'"error"' not in line, line
            times.pieces.append(time.perf_counter())
        if leave is not None and len(times.pieces) >= leave:
            break
    connection.close()
    assert done or leave is not None, "the stream was cut"
    return times


def prompts(count: int, length: int, shared: int = 0, seed: int = 0) -> list[list[int]]:
    generator = random.Random(seed)

    def tokens(n: int) -> list[int]:
        return [generator.randrange(100, 900) for _ in range(n)]

    start = tokens(shared)
    return [start + tokens(length) for _ in range(count)]


def load(server: Served, clients: int, shared: int) -> dict[str, float]:
    """Answers' tokens a second of so many clients with four requests each; seconds to the first."""
    asked = prompts(clients * 4, PROMPT, shared, seed=clients + shared)
    if shared:
        stream(server, asked[0][:shared], 1)
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(lambda prompt: stream(server, prompt, ANSWER), asked))
    seconds = time.perf_counter() - started
    firsts = sorted(times.first for times in found)
    return {
        "tokens/s": len(asked) * ANSWER / seconds,
        "first p50": statistics.median(firsts),
        "first p99": firsts[int(len(firsts) * 0.99)],
    }


def gaps(server: Served, length: int) -> dict[str, float]:
    """Seconds between tokens of three streams while a prompt of that length is read."""
    short, long = prompts(3, PROMPT, seed=7), prompts(1, length, seed=8)[0]
    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(stream, server, prompt, 4 * ANSWER) for prompt in short]
        time.sleep(0.5)
        began = time.perf_counter()
        pool.submit(stream, server, long, 2).result()
        ended = time.perf_counter()
        found = [times.result() for times in streams]
    during = sorted(
        gap
        for times in found
        for gap, at in zip(times.gaps, times.pieces[1:], strict=True)
        if began < at < ended
    )
    return {"gap p99": during[int(len(during) * 0.99)] if during else float("nan")}


def soak(server: Served, count: int) -> dict[str, float]:
    """Requests, a third of which hang up: how many failed, what memory grew, health's slowest."""
    asked, generator = prompts(count, 40, seed=9), random.Random(1)
    leaving = [generator.randrange(1, 6) if i % 3 == 0 else None for i in range(count)]
    slowest, stopped, failed = [0.0], threading.Event(), list[str]()

    def watch() -> None:
        while not stopped.wait(0.2):
            began = time.perf_counter()
            connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
            connection.request("GET", "/health")
            connection.getresponse().read()
            connection.close()
            slowest[0] = max(slowest[0], time.perf_counter() - began)

    def ask(job: tuple[list[int], int | None]) -> None:
        try:
            stream(server, job[0], 24, job[1])
        except Exception as error:
            failed.append(repr(error))

    watcher = threading.Thread(target=watch)
    watcher.start()
    jobs = list(zip(asked, leaving, strict=True))
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(ask, jobs[: count // 4]))
        warm = server.memory()
        list(pool.map(ask, jobs[count // 4 :]))
    stopped.set()
    watcher.join()
    if failed:
        print(f"failed: {failed[:3]}", file=sys.stderr)
    return {
        "failed": len(failed),
        "grown MiB": (server.memory() - warm) / (1 << 20),
        "health s": slowest[0],
    }


@contextmanager
def started(name: str, command: Callable[[int], list[str]]) -> Iterator[Served]:
    """A server that was waited for."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as runtime:
        environment = {**os.environ, "XDG_RUNTIME_DIR": runtime}
        child = subprocess.Popen(
            command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        try:
            server = Served(name, port, child.pid)
            _wait(server, child)
            asked = {"content": "<|eot_id|>", "parse_special": True}
            server.end = server.post("/tokenize", asked)["tokens"][0]
            yield server
        finally:
            child.terminate()
            child.wait(60)


def _wait(server: Served, child: subprocess.Popen[bytes]) -> None:
    while child.poll() is None:
        try:
            connection = HTTPConnection("127.0.0.1", server.port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"{server.name} ended with code {child.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--soak", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("parts", nargs="*", help="load, gaps, soak; without any, all of them")
    options = parser.parse_args()
    model = options.model or _demo()
    threads, parts = str(options.threads), options.parts or ["load", "gaps", "soak"]
    trained = check_llama(read_gguf(model)).context
    size = min(options.context, trained)
    parallel, context, long = str(options.parallel), str(size), min(LONG, size - 5 * ANSWER)

    def own(port: int) -> list[str]:
        return [sys.executable, "-m", "llamacli", "serve", "-m", str(model), "--port", str(port),
                "--parallel", parallel, "-c", context, "--threads", threads, "--quiet",
                "--queue", "100"]  # fmt: skip

    def peer(port: int) -> list[str]:
        cells = str(size + 1024 * (options.parallel - 1))
        command = [str(tool("llama-server")), "-m", str(model), "--port", str(port), "-c", cells]
        command += ["-np", parallel, "-t", threads, "-kvu", "-fa", "on", "-b", "512", "-ub", "512"]
        return command

    servers = [("llamacli", own), *([("llama-server", peer)] if options.peer else [])]
    for name, command in servers:
        with started(name, command) as server:
            stream(server, prompts(1, PROMPT, seed=99)[0], 4)
            if "load" in parts:
                for clients in (1, 4, 8):
                    for shared in (0, SHARED):
                        found = load(server, clients, shared)
                        _tell(name, f"{clients} clients, {shared} shared", found)
            if "gaps" in parts:
                _tell(name, f"3 streams, {long} tokens come in", gaps(server, long))
            if "soak" in parts:
                _tell(name, f"soak of {options.soak}", soak(server, options.soak))


def _tell(name: str, what: str, found: dict[str, float]) -> None:
    told = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
    print(f"{name}: {what}: {told}", flush=True)


def _demo() -> Path:
    from llamacli.models import locate

    return locate("demo")


if __name__ == "__main__":
    main()
