"""The models that a server answers with: loaded when they are asked for, freed when they idle, what
their KV caches hold kept on the disk meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from llamacli.batch import BatchEngine, Pace, Scheduler
from llamacli.engine import Unusable, restore, saved_tokens, state_key
from llamacli.errors import DoesNotFitError, LlamacliError, NotFoundError, UnreachableError
from llamacli.home import home
from llamacli.models import stored_model, stored_models
from llamacli.prompt import cache
from llamacli.serve.faults import Fault, as_fault
from llamacli.serve.lane import Lane
from llamacli.serve.listen import identity
from llamacli.serve.metrics import Metrics
from llamacli.serve.options import Options
from llamacli.serve.worker import Worker
from llamacli.terminal import notice

MOST = 8  # sequences of a model, those used last


def save_states(scheduler: Scheduler) -> None:
    """Save what finished answers left, in the files that `run --cache auto` has.

    Nothing may run any more. A disk that is full costs no more than a notice.
    """
    engine, kept = scheduler.engine, scheduler.kept
    try:
        for left in kept.each_in_first(MOST):
            engine.use_adapters(left.scales)  # they are in the file's key
            engine.tokens = list(left.tokens)
            path = cache.cache_path(engine, cache.AUTO, left.tokens)
            cache.store(engine, path, left.tokens)
    except OSError as error:
        notice(f"the cache can't be written: {error.strerror}")
    except UnreachableError as error:
        notice(str(error))
    engine.tokens = []


def restore_states(scheduler: Scheduler) -> None:
    """Fill the cache of a model that was just loaded with what the disk has of it, half at most."""
    engine, kept = scheduler.engine, scheduler.kept
    for path in _newest():
        if len(kept.left) >= MOST:
            break
        with suppress(Unusable):
            tokens = saved_tokens(path, state_key(engine))
            if kept.cells + len(tokens) <= engine.cells // 2:
                restore(engine, path)
                kept.from_first(list(engine.tokens))
        engine.keep(0)


def _newest() -> Iterator[Path]:
    """States by the time of their last use, the oldest last."""
    times = []
    with suppress(OSError):
        for path in home("cache").glob(f"*{cache.SUFFIX}"):
            with suppress(OSError):
                times.append((path.stat().st_mtime, path))
    return (path for _, path in sorted(times, reverse=True))


@dataclass(eq=False)
class Loaded:
    """A model in memory; uses are the requests that have it now."""

    name: str
    path: Path
    lane: Lane
    pinned: bool
    identity: list[int]
    uses: int = 0
    used: float = field(default_factory=time.monotonic)

    @property
    def engine(self) -> BatchEngine:
        return self.lane.engine


def _is_good(model: Loaded) -> bool:
    """Whether requests are answered with it. A file that is gone is as good as before."""
    if model.engine.lost or model.uses:
        return not model.engine.lost
    with suppress(OSError):
        return identity(model.path) == model.identity
    return True


@dataclass
class Pool:
    """Everything here happens in the loop; models are opened in threads of their own."""

    worker: Worker
    metrics: Metrics
    options: Options
    loaded: dict[Path, Loaded] = field(default_factory=dict)
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def names(self) -> dict[str, Path]:
        """Every model that can be asked for."""
        return self.options.models or {path.stem: path for path in stored_models()}

    def path(self, name: str | None) -> Path:
        """The file that a request's model means. Raises Fault 404 with which there are.

        A name is looked up among names, never on the disk.
        """
        names = self.names()
        if name is None:
            only = [] if self.options.models or len(self.loaded) != 1 else [*self.loaded]
            if (path := next(iter((*only, *names.values())), None)) is not None:
                return path
            raise Fault(404, "no model is there; convert or pull one", "model", "model_not_found")
        if name in names:
            return names[name]
        try:
            return stored_model(name, list(names.values()))
        except NotFoundError:
            there = f"there are {', '.join(names)}" if names else "there is none"
            told = f"there is no model {name[:100]!r}; {there}"
        except LlamacliError as error:
            told = str(error)
        raise Fault(404, told, "model", "model_not_found")

    @asynccontextmanager
    async def use(self, wanted: Loaded | str | None) -> AsyncIterator[Loaded]:
        """The model, or the one of that name, loaded, and not freed meanwhile.

        Raises Fault 404 for one that was freed since it was found: nothing would answer there.
        """
        model = wanted if isinstance(wanted, Loaded) else await self.get(self.path(wanted))
        if self.loaded.get(model.path) is not model:
            raise Fault(404, "the model is not loaded", "file", "not_loaded")
        model.uses += 1
        try:
            yield model
        finally:
            model.uses -= 1
            model.used = time.monotonic()

    async def get(self, path: Path) -> Loaded:
        """The model of a file, loaded anew where another file took its place and nobody has it.

        Where who asks is cancelled, as a batch is, the loading goes on, and the pool has the model.
        """
        if (loaded := self.loaded.get(path)) is not None and _is_good(loaded):
            return loaded
        return await asyncio.shield(self._load(path))

    async def _load(self, path: Path) -> Loaded:
        async with self.loading:
            if (loaded := self.loaded.get(path)) is not None:
                if _is_good(loaded):
                    return loaded
                if loaded.uses:  # what is told of the loss has still to do with it
                    raise Fault(503, "a worker is lost", headers={"Retry-After": "1"})
                await self.free(loaded)
            while True:
                try:
                    seen = identity(path)
                    engine = await asyncio.to_thread(self.options.open, path)
                    break
                except DoesNotFitError as error:
                    if not await self._free_one():
                        raise self._full(error) from error
                except LlamacliError as error:
                    raise as_fault(error) from error
                except OSError as error:
                    told = f"{path.stem} can't be read: {error.strerror}"
                    raise Fault(404, told, "model", "model_not_found") from None
            return await self._add(path, engine, seen)

    async def _add(self, path: Path, engine: BatchEngine, seen: list[int]) -> Loaded:
        name = next((n for n, p in self.names().items() if p == path), path.stem)
        pace = Pace(self.options.slice, engine.tiles, bool(engine.gpus))
        lane = Lane(engine, pace, self.metrics)
        model = Loaded(name, path, lane, bool(self.options.models), seen)

        def begin() -> None:
            if self.options.cache:
                restore_states(lane.scheduler)
            self.worker.lanes.append(lane)

        await self.worker.call(begin)
        self.loaded[path] = model
        return model

    def _full(self, error: DoesNotFitError) -> Fault:
        if self.loaded:
            return Fault(503, f"{error}; others are in use", headers={"Retry-After": "10"})
        return Fault(400, str(error), "model", "model_does_not_fit")

    async def _free_one(self) -> bool:
        """Free the model that was unused for longest; False where all are in use."""
        idle = [model for model in self.loaded.values() if not model.uses]
        if not idle:
            return False
        await self.free(min(idle, key=lambda model: model.used))
        return True

    async def free(self, model: Loaded) -> None:
        del self.loaded[model.path]

        def end() -> None:
            self.worker.lanes.remove(model.lane)
            if self.options.cache and not model.engine.lost:
                save_states(model.lane.scheduler)
            model.engine.close()

        await self.worker.call(end)

    async def free_idle(self) -> None:
        """Free those that nobody used for keep_alive seconds, again and again."""
        while (seconds := self.options.keep_alive) is not None:
            await asyncio.sleep(min(1.0, seconds / 4 + 0.01))
            for model in list(self.loaded.values()):
                if self._idles(model, seconds):
                    async with self.loading:  # until then it may be used, or go
                        if self._idles(model, seconds):
                            await self.free(model)

    def _idles(self, model: Loaded, seconds: float) -> bool:
        there = self.loaded.get(model.path) is model
        idle = there and not (model.uses or model.pinned)
        return idle and time.monotonic() - model.used >= seconds
