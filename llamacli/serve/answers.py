"""A request's answers: from what is asked to streams of pieces, and what becomes of them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from llamacli.answer import Parting, Result
from llamacli.batch import Job, constraint_of
from llamacli.engine import MAX_SEED
from llamacli.errors import LlamacliError
from llamacli.serve.ask import Ask
from llamacli.serve.faults import Ended, Fault, as_fault, invalid, too_long
from llamacli.serve.lane import Task
from llamacli.serve.logprobs import Said
from llamacli.serve.pool import Loaded, Pool
from llamacli.serve.stream import Piece, Stream
from llamacli.tools import CallPart, parts_of


@dataclass
class Whole:
    """An answer that is complete."""

    index: int
    pieces: list[str] = field(default_factory=list)
    calls: list[CallPart] = field(default_factory=list)
    logprobs: list[Said] = field(default_factory=list)
    result: Result = field(init=False)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece.text)
        for part in piece.calls:
            if part.name is not None:
                self.calls.append(part)
            else:
                begun = self.calls[-1]
                self.calls[-1] = replace(begun, arguments=begun.arguments + part.arguments)
        self.logprobs += piece.logprobs
        if piece.result is not None:
            self.result = piece.result


@dataclass
class Answers:
    """The stream of a request's answers by a loaded model; each of its prompts counts once.

    partings has what parts each answer into text and calls, where it may call.
    """

    model: Loaded
    prompt_tokens: int
    stream: Stream
    partings: Sequence[Parting] = ()

    async def whole(self) -> list[Whole]:
        """All answers at their end. Raises Fault where one failed."""
        answers = [Whole(index) for index in range(self.stream.count)]
        async for piece in self.pieces():
            answers[piece.index].add(piece)
        return answers

    async def pieces(self) -> AsyncIterator[Piece]:
        """The stream's, their calls parted from their texts.

        Of an answer that is held to calls they go out as they are written, of another one whole.
        Raises Fault where an answer fails.
        """
        async for piece in self.stream:
            if piece.error is not None:
                raise as_fault(piece.error)
            if not self.partings:
                yield piece
                continue
            parting, result = self.partings[piece.index], piece.result
            before = len(parting.calls)
            if result is None:
                text = parting.feed(piece.text)
            else:
                text, result = parting.finish(piece.text, result)
            if piece.held:
                parts = parting.held.feed(piece.text)
            else:
                parts = parts_of(parting.calls[before:])
            yield replace(piece, text=text, calls=parts, result=result)


@dataclass
class Desk:
    """Where requests are taken; pending answers run or wait."""

    pool: Pool
    pending: int = 0
    draining: bool = False

    @asynccontextmanager
    async def answer(self, ask: Ask, loaded: Loaded | None = None) -> AsyncIterator[Answers]:
        """Begin the answers, by the model that ask names where none is given.

        Those that aren't at their end when the block is left are cancelled. Raises Fault.
        """
        options = self.pool.options
        if ask.calling is not None and ask.calling.threshold is None:
            ask = replace(ask, calling=replace(ask.calling, threshold=options.tool_threshold))
        if self.draining:
            raise Fault(503, "the server stops")
        count = ask.n * len(ask.prompts)
        most = options.parallel + options.queue
        if count > most:  # it would be told to come back for ever
            raise invalid("n", f"asks for {count} answers; the server takes {most} at once")
        if self.pending + count > most:
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
                tasks = self._start(model, jobs, stream, ask.progress)
                timer = self._limit(model, tasks)
                try:
                    partings = [ask.calling.parting() for _ in jobs] if ask.calling else []
                    read = sum(len(job.prompt) for job in jobs[:: ask.n])
                    yield Answers(model, read, stream, partings)
                finally:
                    timer.cancel()
                    if stream.ended < count or stream.waiting:
                        self.pool.worker.do(lambda: model.lane.cancel(tasks))
        finally:
            self.pending -= count

    def _start(
        self, model: Loaded, jobs: Sequence[Job], stream: Stream, progress: bool
    ) -> list[Task]:
        worker = self.pool.worker
        tasks = [
            Task(index, job, lambda piece: worker.deliver(stream, piece), progress)
            for index, job in enumerate(jobs)
        ]
        stream.on_overflow = lambda: worker.do(lambda: model.lane.cancel(tasks))
        worker.do(lambda: model.lane.submit(*tasks))
        return tasks

    def _limit(self, model: Loaded, tasks: Sequence[Task]) -> asyncio.TimerHandle:
        """End them with an error after the seconds that a request may take."""
        seconds, work = self.pool.options.timeout, self.pool.worker.do
        error = Ended(f"the answer took more than {seconds:g} seconds")
        loop = asyncio.get_running_loop()
        return loop.call_later(seconds, lambda: work(lambda: model.lane.fail(tasks, error)))

    async def cancel_all(self) -> None:
        """End every answer with an error: the server stops."""
        error = Ended("the server stops")
        for model in list(self.pool.loaded.values()):
            model.engine.workers.give_up()
            await self.pool.worker.call(partial(model.lane.end_all, error))


def _jobs(model: Loaded, ask: Ask) -> list[Job]:
    """n jobs for each prompt; their seeds follow one another. Raises Fault.

    What holds an answer to its shape or to calls is made here, once for the n: it may take a
    second, which the engine's thread doesn't have.
    """
    engine = model.engine
    try:
        sampling, scales = ask.settings(engine), ask.scales(engine)
        jobs = []
        for prompt in ask.prompts:
            tokens = ask.encode(engine, prompt)
            if len(tokens) > engine.context_size:
                raise too_long(len(tokens), engine.context_size)
            exact = ask.exact and not sampling.draws
            job = Job(tokens, sampling, ask.max_tokens, ask.stop, ask.shape, ask.calling,
                      logprobs=ask.logprobs, exact=exact, chat=ask.chat, scales=scales)  # fmt: skip
            held = constraint_of(engine, job)
            for i in range(ask.n):
                own = held.copy() if held is not None and i else held
                jobs.append(replace(job, sampling=sampling, constraint=own))
                if sampling.seed is not None:
                    sampling = replace(sampling, seed=(sampling.seed + 1) % (MAX_SEED + 1))
        return jobs
    except LlamacliError as error:
        raise as_fault(error) from None
