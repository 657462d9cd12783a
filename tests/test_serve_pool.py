"""The models that a server has loaded: one that was freed is neither asked nor freed again."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llamacli.serve.faults import Fault
from llamacli.serve.metrics import Metrics
from llamacli.serve.pool import Loaded, Pool
from llamacli.serve.worker import Worker

PATH = Path("model.gguf")


def with_pool(work: Callable[[Pool], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        worker = Worker()
        try:
            await work(Pool(worker, Metrics(), lambda path: pytest.fail(str(path)), {}, 0.04))
        finally:
            await worker.stop()

    asyncio.run(run())


async def load(pool: Pool) -> Loaded:
    """A model that has idled for long; its lane has nothing to do."""
    engine = SimpleNamespace(lost=False, close=lambda: None)
    lane: Any = SimpleNamespace(
        engine=engine, busy=False, admit=lambda: False, turn=lambda _: None, fail_all=lambda _: None
    )
    model = Loaded("model", PATH, lane, pinned=False, made=0, identity=[])
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
