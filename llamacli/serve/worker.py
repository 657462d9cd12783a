"""The one thread that owns llama.cpp: it takes steps for each loaded model in turn."""

import asyncio
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from typing import TypeVar

from llamacli.errors import LlamacliError
from llamacli.serve.lane import Lane
from llamacli.serve.stream import Piece, Stream
from llamacli.terminal import say

T = TypeVar("T")
# Seconds for which pieces wait for those that follow, within which nobody sees the difference: each
# time that the loop is woken takes 0.4 ms from llama.cpp's threads, where a small model's token, or
# one on a GPU, takes 4 to 14.
GATHER = 0.04


class Worker:
    """What is to be done comes in as functions, and is done between two steps."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.lanes: list[Lane] = []
        self.pieces: dict[int, tuple[Stream, list[Piece]]] = {}
        self.urgent = False  # whether one of them is the first of its stream's, or an answer's last
        self.flushed = 0.0
        self.stopped = False
        self.thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.thread.start()

    def do(self, work: Callable[[], None]) -> None:
        """Have it done soon, in the engine's thread."""
        self.inbox.put(work)

    async def call(self, work: Callable[[], T]) -> T:
        """What it gives, done in the engine's thread."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # it is done though who asks for it be cancelled

        def done() -> None:
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        self.inbox.put(done)
        return await asyncio.wrap_future(future)

    def deliver(self, stream: Stream, piece: Piece) -> None:
        """To the loop, as the next step is evaluated; of the engine's thread."""
        self.urgent |= piece.last or not stream.begun
        stream.begun |= bool(piece.text)
        self.pieces.setdefault(id(stream), (stream, []))[1].append(piece)

    async def stop(self) -> None:
        """End the thread, with everything freed."""

        def end() -> None:
            self.stopped = True
            for lane in self.lanes:
                lane.engine.close()
            self.lanes.clear()

        await self.call(end)
        self.thread.join()

    def _run(self) -> None:
        while not self.stopped:
            self._take()
            while any(_survived([lane], lane.admit) for lane in list(self.lanes)):
                self._take()  # what came meanwhile: prompts that come together are read together
            for lane in list(self.lanes):
                self.urgent |= lane.reads  # a step with a prompt may take long
                _survived([lane], partial(lane.turn, self._flush_in_time))
            if not any(lane.busy for lane in self.lanes):
                self._flush()

    def _take(self) -> None:
        """Do what came in; wait for something where no model is busy."""
        wait = not any(lane.busy for lane in self.lanes)
        while wait or not self.inbox.empty():
            _survived(self.lanes, self.inbox.get())
            wait = False

    def _flush_in_time(self) -> None:
        if self.urgent or perf_counter() - self.flushed >= GATHER:
            self._flush()

    def _flush(self) -> None:
        """Wake the loop, which then takes Python's lock: while llama.cpp evaluates, it is free."""
        if self.pieces:
            pieces, self.pieces = list(self.pieces.values()), {}
            self.urgent, self.flushed = False, perf_counter()
            self.loop.call_soon_threadsafe(_put_all, pieces)


def _survived(lanes: Sequence[Lane], work: Callable[[], bool | None]) -> bool:
    """What it gives. An error of ours must not end the server, only what those lanes answer."""
    try:
        return bool(work())
    except Exception as error:
        say(traceback.format_exc())
        for lane in lanes:
            lane.fail_all(LlamacliError(f"unexpected {type(error).__name__}"))
        return False


def _put_all(pieces: list[tuple[Stream, list[Piece]]]) -> None:
    for stream, queued in pieces:
        for piece in queued:
            stream.put(piece)
