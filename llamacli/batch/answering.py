"""Many prompts, one after another, as many side by side as the context has sequences."""

from collections.abc import Callable, Iterator
from contextlib import suppress

from llamacli.answer import Result
from llamacli.batch.engine import BatchEngine
from llamacli.batch.job import Job, Running, prepare, result
from llamacli.batch.scheduler import Scheduler
from llamacli.errors import LlamacliError

Outcome = tuple[int, Result | LlamacliError]


def answer_all(
    engine: BatchEngine,
    jobs: Iterator[Job],
    *,
    interrupted: Callable[[], bool] = lambda: False,
    on_step: Callable[[int], None] = lambda _: None,
) -> Iterator[Outcome]:
    """(the job's number, its result or what was wrong with it), as they finish.

    on_step gets how many answer tokens each step made. Ends early once interrupted says so.
    """
    scheduler, waiting = Scheduler(engine), _Waiting(enumerate(jobs))
    try:
        while not interrupted():
            yield from waiting.admit(scheduler)
            if not scheduler.running:
                return
            step = scheduler.step(interrupted)
            on_step(len(step.grown))
            yield from map(_outcome, step.finished)
    finally:
        for running in [*scheduler.running, *scheduler.put_back]:
            running.resources.close()
        with suppress(AttributeError):
            engine.library.llama_memory_clear(engine.memory, False)


def _outcome(running: Running) -> Outcome:
    return running.index, running.error or result(running)


class _Waiting:
    """The jobs that haven't begun, in order; one is looked at before it can start."""

    def __init__(self, jobs: Iterator[tuple[int, Job]]) -> None:
        self.jobs = jobs
        self.next: tuple[int, Job] | None = None

    def admit(self, scheduler: Scheduler) -> Iterator[Outcome]:
        """Start jobs while there are free sequences; gives those that can't be started."""
        scheduler.bring_back()
        while scheduler.has_room:
            self.next = self.next or next(self.jobs, None)
            if self.next is None or scheduler.should_wait(self.next[1]):
                return
            (index, job), self.next = self.next, None
            try:
                scheduler.start(prepare(scheduler.engine, index, job))
            except LlamacliError as error:
                yield index, error
