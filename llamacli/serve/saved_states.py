"""What a model's KV cache holds when it is freed, on the disk, for when it is loaded again."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from llamacli.batch import Scheduler
from llamacli.engine import Unusable, restore, saved_tokens, state_key
from llamacli.errors import UnreachableError
from llamacli.home import home
from llamacli.prompt import cache
from llamacli.terminal import notice

MOST = 8  # sequences of a model, those used last


def save_states(scheduler: Scheduler) -> None:
    """Save what finished answers left, in the files that `run --cache auto` has.

    Nothing may run any more. A disk that is full costs no more than a notice.
    """
    engine, kept = scheduler.engine, scheduler.kept
    try:
        for tokens, scales in kept.each_in_first(MOST):
            engine.use_adapters(scales)  # they are in the file's key
            engine.tokens = list(tokens)
            cache.store(engine, cache.cache_path(engine, cache.AUTO, tokens), tokens)
    except OSError as error:
        notice(f"the cache can't be written: {error.strerror}")
    except UnreachableError as error:
        notice(str(error))
    engine.tokens = []


def restore_states(scheduler: Scheduler) -> None:
    """Fill the cache of a model that was just loaded with what the disk has of it, half at most."""
    engine, kept = scheduler.engine, scheduler.kept
    for path in _newest():
        if len(kept.tokens) >= MOST:
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
