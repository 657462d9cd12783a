"""The models that a server has loaded: one that was freed is neither asked nor freed again."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from llamacli.errors import LlamacliError
from llamacli.serve import app, local
from llamacli.serve.answers import Desk
from llamacli.serve.faults import Fault
from llamacli.serve.fields import Fields
from llamacli.serve.metrics import Metrics
from llamacli.serve.options import Options
from llamacli.serve.pool import Loaded, Pool
from llamacli.serve.stream import Piece, Stream
from llamacli.serve.worker import Worker
from tests.standins.waiting import PATIENCE

PATH = Path("model.gguf")


def with_pool(
    work: Callable[[Pool], Coroutine[Any, Any, None]],
    open_model: Callable[[Path], Any] = lambda path: pytest.fail(str(path)),
) -> None:
    async def run() -> None:
        worker = Worker()
        try:
            await work(Pool(worker, Metrics(), Options({}, open_model, keep_alive=0.04)))
        finally:
            await worker.stop()

    asyncio.run(run())


def lane_of(engine: Any, *_: Any) -> Any:
    """One that has nothing to do."""
    return SimpleNamespace(
        engine=engine, busy=False, reads=False, admit=lambda: False, turn=lambda _: None,
        fail_all=lambda _: None,
    )  # fmt: skip


async def load(pool: Pool) -> Loaded:
    """A model that has idled for long."""
    lane = lane_of(SimpleNamespace(lost=False, close=lambda: None))
    model = Loaded("model", PATH, lane, pinned=False, identity=[])
    model.used = time.monotonic() - 3600
    await pool.worker.call(lambda: pool.worker.lanes.append(lane))
    pool.loaded[PATH] = model
    return model


def test_a_model_that_was_freed_since_it_was_found_is_not_asked() -> None:
    """Its lane takes no more steps: who asked there would wait for an hour."""

    async def work(pool: Pool) -> None:
        found = await load(pool)
        await pool.free(found)
        with pytest.raises(Fault, match="not loaded"):
            async with pool.use(found):
                pass

    with_pool(work)


def test_one_that_was_loaded_anew_is_not_freed_in_the_place_of_the_old() -> None:
    """It was freed, and loaded again, while the one who frees what idles waited for its turn."""

    async def work(pool: Pool) -> None:
        old = await load(pool)
        async with pool.loading:
            freeing = asyncio.create_task(pool.free_idle())
            while not pool.loading._waiters:  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
            await pool.free(old)
            new = await load(pool)
            new.used = time.monotonic() + 3600
        for _ in range(3):
            await asyncio.sleep(0)
        assert not freeing.done() and pool.loaded == {PATH: new}
        freeing.cancel()

    with_pool(work)


def test_a_model_that_is_loaded_for_one_who_is_gone_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a batch that is cancelled: nobody would know of it, nor free it."""
    path = tmp_path / "model.gguf"
    path.touch()
    opened: list[Path] = []
    go = Event()
    monkeypatch.setattr("llamacli.serve.pool.Lane", lane_of)

    def open_model(path: Path) -> Any:
        opened.append(path)
        go.wait(PATIENCE)
        return SimpleNamespace(lost=False, close=lambda: None, tiles=False, gpus=())

    async def work(pool: Pool) -> None:
        gone = asyncio.create_task(pool.get(path))
        while not opened:
            await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.wait([gone])
        go.set()
        assert await pool.get(path) is pool.loaded[path]
        assert gone.cancelled() and opened == [path]

    with_pool(work, open_model)


def test_pieces_go_out_together_but_the_first_and_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop isn't woken for each of a fast model's tokens, and nobody waits for a slow one's."""

    async def work(pool: Pool) -> None:
        worker, stream = pool.worker, Stream(1)

        def told(*pieces: Piece) -> int:
            for piece in pieces:
                worker.deliver(stream, piece)
            worker._flush_in_time()
            return len(worker.pieces)

        monkeypatch.setattr("llamacli.serve.worker.GATHER", 3600.0)
        worker.flushed = time.perf_counter()
        assert told(Piece(0, read=5)) == told(Piece(0, "a")) == 0
        assert told(Piece(0, "b")) == told(Piece(0, "c")) == 1
        worker.flushed -= 3600
        assert told(Piece(0, "d")) == 0
        assert told(Piece(0, "e")) == 1
        assert told(Piece(0, error=LlamacliError("the end"))) == 0
        assert [piece.text async for piece in stream] == ["", *"abcde", ""]

    with_pool(work)


def test_none_is_freed_while_a_programs_request_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its vocabulary counts the tokens of a choice's words, in a thread."""
    uses = list[int]()

    async def work(pool: Pool) -> None:
        model = await load(pool)

        def read(*_: Any) -> None:
            uses.append(model.uses)
            raise Fault(422, "read")

        async def body(_: Any) -> Fields:
            return Fields({})

        monkeypatch.setattr(app, "read_body", body)
        monkeypatch.setattr(local, "find_loaded", lambda *_: model)
        monkeypatch.setattr(local, "find_adapters", lambda *_: {})
        monkeypatch.setattr(local, "read_local", read)
        request: Any = SimpleNamespace(scope={"own": True})
        with pytest.raises(Fault, match="read"):
            async with app.Server(Desk(pool), ready=True).own_answer(request):
                pass

    with_pool(work)
    assert uses == [1]
