"""run, chat and batch as clients of the user's server, where it has the model loaded."""

from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from llamacli import chat, models, serve
from llamacli.commands import groups
from llamacli.commands.answering import tell
from llamacli.errors import LlamacliError, NotFoundError
from llamacli.terminal import notice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from llamacli.answer import Calling, Result
    from llamacli.engine import Asked, Engine


def answer_by_server(
    path: Path,
    machine: groups.Machine,
    context: Any,
    draft: str | None,
    prompt: dict[str, Any],
    sampling: groups.Sampling,
    ending: groups.Ending,
    output: groups.Output,
    shape: groups.Shape,
    calling: "Calling | None",
) -> "Result | None":
    """The answer, told in that manner; None where no server has the model as it is asked for.

    prompt has the messages, or a text and whether it is special, and adapters; calling what it may
    call. Whoever asks for something of the machine other than threads, or for a model that drafts,
    gets an engine of their own.
    """
    if why_not(machine, draft, context) is not None:
        return None
    body = {**prompt, **request_fields(sampling, ending, shape), "exact": True}
    body |= serve.calling_field(calling)
    answer = serve.ask_server(path, body)
    if answer is None:
        return None
    if output.verbose:
        notice(serve.BY_SERVER)
    return tell(answer.chunks, answer.head, output, calling)


@contextmanager
def model_for(
    path: Path, machine: groups.Machine, asked: "Asked", output: groups.Output, *, alone: bool
) -> "Iterator[Engine | chat.Served]":
    """The model by a server that has it as it is asked for, else loaded here; alone asks none."""
    if not alone and why_not(machine, asked.draft, asked.context) is None:
        served = serve.served_model(path, None, asked.adapters)
        if not isinstance(served, str):
            if output.verbose:
                notice(serve.BY_SERVER)
            yield served
            return
    with models.engine_for(path, asked, quiet=output.quiet) as engine:
        yield engine


def why_not(machine: groups.Machine, draft: str | None, context: Any = None) -> str | None:
    """Why no server of the user's is to be asked; its workers are as good as others."""
    left = replace(machine, threads=None, workers=None, split=None, worker_timeout=None)
    if left != groups.Machine() or draft is not None or context is not None:
        return "options say how"
    return "no server is there" if serve.own_socket() is None else None


def answers_by_server(
    path: Path, machine: groups.Machine, asked: "Asked", adapters: dict[str, Any], quiet: bool
) -> bool:
    """Whether a server has the model as it is asked for, and a request's adapters; it is told."""
    if why_not(machine, asked.draft, asked.context) is not None:
        return False
    if (has := serve.loaded(path, adapters) is not None) and not quiet:
        notice(serve.BY_SERVER)
    return has


def adapter_fields(given: "Sequence[str] | None") -> dict[str, Any]:
    """The field of a request that names adapters: a server that hasn't loaded them won't answer."""
    if not given:
        return {}
    return serve.adapters_field(models.adapter_choices(given))


def request_fields(
    sampling: groups.Sampling, ending: groups.Ending, shape: groups.Shape
) -> dict[str, Any]:
    """The options' fields of a request to the server."""
    settings = {name: value for name, value in vars(sampling).items() if value is not None}
    return {
        **settings,
        "max_tokens": ending.max_tokens,
        "stop": ending.stop or [],
        "shape": shape.given or None,
    }


def answer_lines(
    path: Path,
    parallel: int,
    bodies: "Iterable[dict[str, Any]]",
    *,
    interrupted: "Callable[[], bool]",
    on_step: "Callable[[int], None]",
) -> "Iterator[tuple[int, Result | LlamacliError]]":
    """(a request's number, its result or what was wrong with it), as they finish.

    interrupted and on_step are answer_all's. Raises NotFoundError where the server is gone.
    """
    from convert import Pool

    numbers: dict[Future[Result], int] = {}
    finished: SimpleQueue[Future[Result]] = SimpleQueue()
    pool = Pool(parallel)
    try:
        for number, body in enumerate(bodies):
            future = pool.submit(serve.answer_whole, path, body, interrupted)
            numbers[future] = number
            future.add_done_callback(finished.put)
        while numbers and not interrupted():  # a server that hangs holds up no signal
            with suppress(Empty):
                done = finished.get(timeout=serve.GLANCE)
                if interrupted():
                    return
                yield numbers.pop(done), _outcome(done, on_step)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _outcome(done: "Future[Result]", on_step: "Callable[[int], None]") -> "Result | LlamacliError":
    try:
        result = done.result()
    except NotFoundError:
        raise
    except LlamacliError as error:
        return error
    on_step(result.answer_tokens)
    return result
