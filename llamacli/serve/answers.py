"""A request's answers: from what is asked to streams of pieces, and what becomes of them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from llamacli.answer import Result
from llamacli.batch import Job, TokenLogprob
from llamacli.errors import LlamacliError
from llamacli.serve.ask import Ask
from llamacli.serve.faults import Ended, Fault, as_fault, too_long
from llamacli.serve.lane import Task
from llamacli.serve.pool import Loaded, Pool
from llamacli.serve.stream import Stream


@dataclass
class Whole:
    """An answer that is complete."""

    index: int
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    result: Result | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass
class Answers:
    """The stream of a request's answers by a loaded model; prompts in tokens, n answers to each."""

    model: Loaded
    prompts: Sequence[Sequence[int]]
    stream: Stream

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    async def whole(self) -> list[Whole]:
        """All answers at their end. Raises Fault where one failed."""
        answers = [Whole(index) for index in range(self.stream.count)]
        async for piece in self.stream:
            if piece.error is not None:
                raise as_fault(piece.error)
            answer = answers[piece.index]
            answer.pieces.append(piece.text)
            answer.logprobs += piece.logprobs
            answer.result = piece.result or answer.result
        return answers


@dataclass
class Desk:
    """Where requests are taken: at most queue answers wait for one of parallel sequences."""

    pool: Pool
    parallel: int
    queue: int
    pending: int = 0
    seconds: float = 3600.0  # that a request may take
    draining: bool = False

    @asynccontextmanager
    async def answer(self, ask: Ask, loaded: Loaded | None = None) -> AsyncIterator[Answers]:
        """Begin the answers, by the model that ask names where none is given.

        Those that aren't at their end when the block is left are cancelled. Raises Fault.
        """
        if self.draining:
            raise Fault(503, "the server stops")
        count = ask.n * len(ask.prompts)
        if self.pending + count > self.parallel + self.queue:
            raise Fault(
                429,
                f"{self.pending} answers run or wait already; try again later",
                code="queue_full",
                headers={"Retry-After": "1"},
            )
        self.pending += count
        try:
            async with self.pool.use(loaded or ask.model) as model:
                jobs = await asyncio.to_thread(_jobs, model, ask)
                stream = Stream(count)
                tasks = self._start(model, jobs, stream)
                timer = self._limit(model, tasks)
                try:
                    yield Answers(model, [job.prompt for job in jobs[:: ask.n]], stream)
                finally:
                    timer.cancel()
                    if stream.ended < count or stream.waiting:
                        self.pool.worker.do(lambda: model.lane.cancel(tasks))
        finally:
            self.pending -= count

    def _start(self, model: Loaded, jobs: Sequence[Job], stream: Stream) -> list[Task]:
        worker = self.pool.worker
        tasks = [
            Task(index, job, lambda piece: worker.deliver(stream, piece))
            for index, job in enumerate(jobs)
        ]
        stream.on_overflow = lambda: worker.do(lambda: model.lane.cancel(tasks))

        def submit() -> None:
            for task in tasks:
                model.lane.submit(task)

        worker.do(submit)
        return tasks

    def _limit(self, model: Loaded, tasks: Sequence[Task]) -> asyncio.TimerHandle:
        """End them with an error after the seconds that a request may take."""
        error = Ended(f"the answer took more than {self.seconds:g} seconds")
        work = self.pool.worker.do
        loop = asyncio.get_running_loop()
        return loop.call_later(self.seconds, lambda: work(lambda: model.lane.fail(tasks, error)))

    async def cancel_all(self) -> None:
        """End every answer with an error: the server stops."""
        error = Ended("the server stops")
        for model in list(self.pool.loaded.values()):
            model.engine.workers.give_up()
            await self.pool.worker.call(partial(model.lane.end_all, error))


def _jobs(model: Loaded, ask: Ask) -> list[Job]:
    """n jobs for each prompt; their seeds follow one another. Raises Fault."""
    engine = model.engine
    try:
        sampling, scales = ask.settings(engine), ask.scales(engine)
        jobs = []
        for prompt in ask.prompts:
            tokens = ask.encode(engine, prompt)
            if len(tokens) > engine.context_size:
                raise too_long(len(tokens), engine.context_size)
            for _ in range(ask.n):
                job = Job(tokens, sampling, ask.max_tokens, ask.stop, ask.shape, ask.logprobs)
                jobs.append(
                    replace(job, exact=ask.exact and sampling.temperature == 0, scales=scales)
                )
                if sampling.seed is not None:
                    sampling = replace(sampling, seed=(sampling.seed + 1) % ((1 << 32) - 1))
        return jobs
    except LlamacliError as error:
        raise as_fault(error) from None
