"""A server that is measured: streams of its answers, throughput, gaps between tokens, a soak, and
`run` by it."""

import json
import multiprocessing
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import psutil

PROMPT, ANSWER, SHARED, LONG = 128, 64, 1000, 4000
CONNECTIONS = 64
LOGGED = 30  # lines of a server's log that tell why it ended, a backtrace among them


@dataclass
class Served:
    """A server at a port, the token that would end an answer, and how many prompts there were.

    No two measurements have the same prompts, and each server has the same ones. runtime is the
    user's runtime folder, as the server knows it.
    """

    name: str
    port: int
    pid: int
    runtime: str
    end: int = 0
    seeds: int = 0

    def prompts(self, count: int, length: int, shared: int = 0) -> list[list[int]]:
        self.seeds += 1
        return prompts(count, length, shared, self.seeds)

    def get(self, path: str) -> bytes:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        told = connection.getresponse().read()
        connection.close()
        return told

    def post(self, path: str, body: dict[str, Any]) -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        parsed = json.loads(response.read())
        assert response.status == 200, parsed
        return parsed

    def processor(self) -> float:
        """Seconds that its threads have computed."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

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


def load(server: Served, clients: int, shared: int, each: int) -> dict[str, float]:
    """Answers' tokens a second of so many clients with so many requests each, and seconds to the
    first token; the shared start was read before."""
    asked = server.prompts(clients * each, PROMPT, shared)
    if shared:
        stream(server, asked[0][:shared], 1)
    computed = server.processor()
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        results = list(pool.map(lambda prompt: stream(server, prompt, ANSWER), asked))
    seconds = time.perf_counter() - started
    firsts = sorted(times.first for times in results)
    return {
        "tokens/s": len(asked) * ANSWER / seconds,
        "first p50": statistics.median(firsts),
        "first p99": firsts[int(len(firsts) * 0.99)],
        "CPU ms a token": 1000 * (server.processor() - computed) / (len(asked) * ANSWER),
    }


def gaps(server: Served, length: int) -> dict[str, float]:
    """Seconds between tokens of three streams while a prompt of that length is read."""
    short, long = server.prompts(3, PROMPT), server.prompts(1, length)[0]
    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(stream, server, prompt, 4 * ANSWER) for prompt in short]
        time.sleep(0.5)
        began = time.perf_counter()
        pool.submit(stream, server, long, 2).result()
        ended = time.perf_counter()
        collected = [times.result() for times in streams]
    during = sorted(
        gap
        for times in collected
        for gap, at in zip(times.gaps, times.pieces[1:], strict=True)
        if began < at < ended
    )
    return {"gap p99": during[int(len(during) * 0.99)] if during else float("nan")}


def soak(server: Served, count: int) -> dict[str, float]:
    """Requests, a third of which hang up: how many failed, what memory grew, health's slowest."""
    asked, generator = server.prompts(count, 40), random.Random(1)
    leaving = [generator.randrange(1, 6) if i % 3 == 0 else None for i in range(count)]
    failed = list[str]()

    def ask(job: tuple[list[int], int | None]) -> None:
        try:
            stream(server, job[0], 24, job[1])
        except Exception as error:
            failed.append(repr(error))

    ours, theirs = multiprocessing.Pipe()
    watcher = multiprocessing.get_context("spawn").Process(target=watch, args=(server, theirs))
    watcher.start()
    ours.recv()
    jobs = list(zip(asked, leaving, strict=True))
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(ask, jobs[: count // 4]))
        warm = server.memory()
        list(pool.map(ask, jobs[count // 4 :]))
    ours.send(None)
    slowest = ours.recv()
    watcher.join()
    if failed:
        print(f"failed: {failed[:3]}", file=sys.stderr)
    return {
        "failed": len(failed),
        "grown MiB": (server.memory() - warm) / (1 << 20),
        "health s": slowest,
    }


def watch(server: Served, parent: Connection) -> None:
    """Ask for the server's health until the parent says something; tell it the slowest answer.

    In a process of its own: what 64 threads of this one wait for isn't the server's doing.
    """
    parent.send(None)
    slowest = 0.0
    while not parent.poll(0.1):
        began = time.perf_counter()
        server.get("/health")
        slowest = max(slowest, time.perf_counter() - began)
    parent.send(slowest)


def first_byte(server: Served, model: Path, count: int = 9) -> dict[str, float]:
    """Seconds from the start of `run`, which the server answers, to its first byte, beyond those
    that the server reads the prompt for."""
    found = []
    for number in range(count):
        prompt = " ".join(str(number + n) for n in range(PROMPT // 2))
        command = [sys.executable, "-m", "llamacli", "run", "--raw", "-v", "-m", str(model)]
        command += ["--temp", "0", "-n", "4", prompt]
        environment = {**os.environ, "XDG_RUNTIME_DIR": server.runtime}
        read, began, pipe = _prompt_seconds(server), time.perf_counter(), subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment) as child:
            assert child.stdout is not None
            assert child.stdout.read(1), "no answer came"
            first = time.perf_counter() - began
            _, told = child.communicate()
        assert b"a server that has the model loaded answers" in told, told
        found.append(first - (_prompt_seconds(server) - read))
    return {"beyond the prefill s": statistics.median(found)}


def _prompt_seconds(server: Served) -> float:
    told = re.search(rb"^llamacli_prompt_seconds_total (\S+)", server.get("/metrics"), re.MULTILINE)
    assert told is not None
    return float(told[1])


@contextmanager
def started(name: str, command: Callable[[int], list[str]]) -> Iterator[Served]:
    """A server that was waited for.

    Raises SystemExit with the end of its log where it ended instead.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as runtime, tempfile.TemporaryFile() as log:
        environment = {**os.environ, "XDG_RUNTIME_DIR": runtime}
        child = subprocess.Popen(command(port), stdout=log, stderr=log, env=environment)
        try:
            server = Served(name, port, child.pid, runtime)
            _wait(server, child, log)
            asked = {"content": "<|eot_id|>", "parse_special": True}
            server.end = server.post("/tokenize", asked)["tokens"][0]
            yield server
        finally:
            child.terminate()
            child.wait(60)


def _wait(server: Served, child: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    while child.poll() is None:
        try:
            connection = HTTPConnection("127.0.0.1", server.port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    log.seek(0)
    told = log.read().decode(errors="replace").splitlines()[-LOGGED:]
    raise SystemExit("\n".join([*told, f"{server.name} ended with code {child.returncode}"]))
