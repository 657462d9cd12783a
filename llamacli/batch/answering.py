"""Many prompts: as many side by side as the context has sequences, or each as if it were alone."""

from collections.abc import Callable, Iterable, Iterator

from llamacli.answer import Result, generate
from llamacli.batch.engine import BatchEngine
from llamacli.batch.job import Job, constraint_of, prepare, result
from llamacli.batch.scheduler import Scheduler
from llamacli.engine import Engine
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
    scheduler, waiting = Scheduler(engine), enumerate(jobs)
    following = next(waiting, None)
    try:
        while not interrupted():
            while following and scheduler.has_room and not scheduler.should_wait(following[1]):
                try:
                    scheduler.start(prepare(engine, *following))
                except LlamacliError as error:
                    yield following[0], error
                following = next(waiting, None)
            if not scheduler.running:
                return
            step = scheduler.step(interrupted)
            on_step(len(step.grown))
            yield from ((one.index, one.error or result(one)) for one in step.finished)
    finally:
        for running in [*scheduler.running, *scheduler.put_back]:
            running.resources.close()
        if not engine.closed:
            engine.library.llama_memory_clear(engine.memory, False)


def answer_each(
    engine: Engine,
    jobs: Iterable[Job],
    *,
    interrupted: Callable[[], bool] = lambda: False,
    on_step: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[int, Result | LlamacliError]]:
    """(the job's number, its result or what was wrong with it), in order.

    llama.cpp's sums depend on how many tokens are evaluated at once, and on what is in the cache
    already. So nothing is shared here, not even a start that prompts have in common. on_step and
    interrupted are answer_all's.
    """
    for index, job in enumerate(jobs):
        if interrupted():
            return
        try:
            engine.keep(0)
            *_, last = generate(
                engine,
                job.prompt,
                job.sampling,
                max_tokens=job.max_tokens,
                stop=job.stop,
                constraint=constraint_of(engine, job),
                interrupted=interrupted,
            )
        except LlamacliError as error:
            yield index, error
            continue
        assert last.result is not None
        on_step(last.result.answer_tokens)
        if last.result.finish_reason == "interrupted":
            return
        yield index, last.result
