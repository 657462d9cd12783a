"""A batch's jobs one after the other, each as if it were alone: the answers that run gives."""

from collections.abc import Callable, Iterable, Iterator

from llamacli.answer import Result, generate
from llamacli.batch.job import Job, constraint_of
from llamacli.engine import Engine
from llamacli.errors import LlamacliError


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
            result = _answer(engine, job, interrupted)
        except LlamacliError as error:
            yield index, error
            continue
        on_step(result.answer_tokens)
        if result.finish_reason == "interrupted":
            return
        yield index, result


def _answer(engine: Engine, job: Job, interrupted: Callable[[], bool]) -> Result:
    engine.keep(0)
    chunks = generate(
        engine,
        job.prompt,
        job.sampling,
        max_tokens=job.max_tokens,
        stop=job.stop,
        constraint=constraint_of(engine, job),
        interrupted=interrupted,
    )
    result = [chunk.result for chunk in chunks][-1]
    assert result is not None
    return result
