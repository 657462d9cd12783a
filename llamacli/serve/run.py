"""The server's life: it listens, loads, answers, and ends by a signal."""

import asyncio
import os
import signal
import socket
import sys
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from llamacli.errors import LlamacliError
from llamacli.serve.answers import Desk
from llamacli.serve.app import Server, make_app
from llamacli.serve.guard import Guard, Rules, own_hosts
from llamacli.serve.listen import Taken, default_socket, listen_on_port, listen_on_socket
from llamacli.serve.metrics import Metrics
from llamacli.serve.options import Options
from llamacli.serve.pool import Pool
from llamacli.serve.worker import Worker
from llamacli.system import ENDING
from llamacli.terminal import notice

SIGNALS = (signal.SIGINT, *ENDING)
GRACE = 10.0  # seconds that running answers get after SIGTERM
AFTER = 2.0  # seconds after those in which their clients may take how they ended
MAX_HEADERS = 1 << 16  # bytes
MAX_CONNECTIONS = 512
IDLE = 30.0  # seconds without a request, or a reader, after which a connection is closed


def serve(options: Options) -> None:
    """Answer until a signal comes, which is raised again at the end, for its exit code.

    Raises UsageError and Taken where it can't listen, and what loading the first model raises.
    """
    with ExitStack() as listening:
        own = _own_socket(options, listening)
        port = listening.enter_context(listen_on_port(options.host, options.port))
        life = _Life(options, port, own)
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(life.live())
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if life.failed is not None:
        raise life.failed
    if life.caught is not None:
        signal.raise_signal(life.caught)


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, but on Windows, which has none: a token takes a quarter less of the loop's time,
    which llama.cpp's threads have."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _own_socket(options: Options, listening: ExitStack) -> socket.socket | None:
    """The socket that was asked for, else the user's own where no other server has it."""
    if options.socket is not None:
        return listening.enter_context(listen_on_socket(options.socket))
    try:
        return listening.enter_context(listen_on_socket(default_socket()))
    except Taken:
        notice("another server has the user's socket: run, chat and batch go on asking that one")
    except LlamacliError as error:
        notice(f"without a socket for run, chat and batch: {error}")
    return None


class _Listening(uvicorn.Server):
    """Signals are ours."""

    def capture_signals(self) -> Any:
        return nullcontext()


class _Protocol(H11Protocol):
    """Closes connections beyond MAX_CONNECTIONS, and those on which neither a request comes nor a
    client takes what it asked for."""

    seen: Any = (None, 0)  # the last request, and how many bytes of answers aren't taken yet

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.watching = self.loop.call_later(IDLE, self._watch)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()

    def _watch(self) -> None:
        """End it where nothing has changed since the last look but parts of a request."""
        answering = self.cycle is not None and not self.cycle.response_complete
        before, self.seen = self.seen, (self.cycle, self.transport.get_write_buffer_size())
        if self.seen == before and (self.seen[1] or not answering):
            self.transport.abort()  # closing would wait for what the client doesn't read
            return
        self.watching = self.loop.call_later(IDLE, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        self.watching.cancel()
        super().connection_lost(exc)


@dataclass
class _Life:
    options: Options
    port: socket.socket
    own: socket.socket | None
    caught: int | None = None
    failed: LlamacliError | None = None
    http: _Listening = field(init=False)
    server: Server = field(init=False)

    async def live(self) -> None:
        options, metrics = self.options, Metrics()
        worker = Worker()
        pool = Pool(worker, metrics, options)
        desk = Desk(pool)
        self.server = Server(desk)
        rules = Rules(
            own_hosts(options.host),
            frozenset(origin.lower().rstrip("/") for origin in options.origins),
            options.keys,
            options.quiet,
        )
        config = uvicorn.Config(
            Guard(make_app(self.server), rules, metrics), http=_Protocol, ws="none", lifespan="off",
            log_config=None, log_level="error", access_log=False, proxy_headers=False,
            server_header=False, date_header=False, timeout_keep_alive=int(IDLE),
            h11_max_incomplete_event_size=MAX_HEADERS, timeout_graceful_shutdown=int(GRACE + AFTER),
        )  # fmt: skip
        self.http = _Listening(config)
        loop = asyncio.get_running_loop()

        def arrive(number: int, _: Any) -> None:
            with suppress(RuntimeError):  # the loop has just been closed: all is over
                loop.call_soon_threadsafe(self._arrive, number)

        for number in SIGNALS:
            signal.signal(number, arrive)
        sockets = [self.port, *([self.own] if self.own else [])]
        background = [
            asyncio.create_task(self._load(pool)),
            asyncio.create_task(pool.free_idle()),
        ]
        await self.http.serve(sockets=sockets)
        for task in background:
            task.cancel()
        desk.draining = True
        await desk.cancel_all()
        for model in list(pool.loaded.values()):
            await pool.free(model)
        await worker.stop()

    async def _load(self, pool: Pool) -> None:
        """The first of the chosen models, before anything is answered."""
        host, port = self.port.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        try:
            for path in list(self.options.models.values())[:1]:
                await pool.get(path)
        except Exception as error:
            cause = error.__cause__ or error
            self.failed = cause if isinstance(cause, LlamacliError) else LlamacliError(str(error))
            self.http.should_exit = True
            return
        self.server.ready = True
        names = ", ".join(self.options.models) or "the store's models"
        if not pool.names():
            names = "the store's models, of which there is none yet (llamacli pull, or convert),"
        notice(f"{names} at http://{shown}:{port}, and by the socket" if self.own else
               f"{names} at http://{shown}:{port}")  # fmt: skip

    def _arrive(self, number: int) -> None:
        """The first signal lets running answers go on for GRACE seconds, SIGINT again ends all."""
        if self.caught is not None:
            if number == signal.SIGINT:
                sys.stderr.flush()
                os._exit(128 + number)
            return
        self.caught = number
        self.server.desk.draining = True
        self.http.should_exit = True
        loop = asyncio.get_running_loop()
        loop.call_later(GRACE, lambda: loop.create_task(self.server.desk.cancel_all()))
