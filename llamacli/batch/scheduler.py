"""Many prompts at once: sequences side by side in one context, their common start shared."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from llamacli.answer import Result
from llamacli.batch.job import Job, Running, prepare, result
from llamacli.engine import ABORTED, Engine, EngineSettings, because, common_prefix
from llamacli.errors import DoesNotFitError, InvalidModelError, LlamacliError

__all__ = ["MAX_PARALLEL", "BatchEngine", "Job", "answer_all"]

MAX_PARALLEL = 255  # llama.cpp's LLAMA_MAX_SEQ, less the sequence that keeps the common start
WORTH_WAITING = 16  # tokens that another sequence is evaluating already
FULL = 1  # llama_decode's code where the cache has no room
PREFIX = 0  # the sequence that keeps the common start when nobody else holds it


class BatchEngine(Engine):
    """An engine whose context has parallel sequences, and cells for all of them together.

    context_size is the most that one prompt and its answer can have.
    """

    parallel: int

    def __init__(self, path: Any, settings: EngineSettings, parallel: int, **rest: Any) -> None:
        super().__init__(path, settings, parallel=parallel, **rest)
        library = self.library
        self.memory = library.llama_get_memory(self.context_pointer)
        # Never more than llama.cpp takes at once, so that a full cache leaves nothing half done.
        batches = library.llama_n_batch, library.llama_n_ubatch
        self.rows = min(int(count(self.context_pointer)) for count in batches)
        self.batch = library.llama_batch_init(self.rows, 0, 1)
        self.cells = int(library.llama_n_ctx(self.context_pointer))

    def close(self) -> None:
        if (batch := getattr(self, "batch", None)) is not None:
            self.library.llama_batch_free(batch)
            self.batch = None
        super().close()


def answer_all(
    engine: BatchEngine,
    jobs: Iterator[Job],
    *,
    interrupted: Callable[[], bool] = lambda: False,
    on_step: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[int, Result | LlamacliError]]:
    """(the job's number, its result or what was wrong with it), as they finish.

    on_step gets how many answer tokens each step made. Ends early once interrupted says so.
    """
    scheduler = _Scheduler(engine, enumerate(jobs))
    try:
        while not interrupted():
            yield from scheduler.admit()
            if not scheduler.running:
                return
            made, finished = scheduler.step(interrupted)
            on_step(made)
            yield from finished
    finally:
        for running in scheduler.running:
            running.resources.close()


@dataclass
class _Scheduler:
    engine: BatchEngine
    jobs: Iterator[tuple[int, Job]]
    running: list[Running] = field(default_factory=list)
    put_back: deque[Running] = field(default_factory=deque)  # had to make room
    next_job: tuple[int, Job] | None = None
    prefix: list[int] = field(default_factory=list)  # what sequence PREFIX holds

    def admit(self) -> Iterator[tuple[int, LlamacliError]]:
        """Start jobs while there are free sequences; gives those that can't be started."""
        while len(self.running) < self.engine.parallel:
            if self.put_back:
                if self.running:  # it goes on when there is room again
                    return
                self._start(self.put_back.popleft())
                continue
            if self.next_job is None:
                self.next_job = next(self.jobs, None)
            if self.next_job is None:
                return
            index, job = self.next_job
            if self._should_wait(job):
                return
            self.next_job = None
            try:
                self._start(prepare(self.engine, index, job))
            except LlamacliError as error:
                yield index, error

    def step(self, interrupted: Callable[[], bool]) -> tuple[int, list[Any]]:
        """Evaluate one batch and choose a token for each sequence that is up to date."""
        rows = self._fill()
        code = self._evaluate(interrupted)
        if code == FULL:
            self._make_room()
        if code in (FULL, ABORTED):
            return 0, []
        if code:
            raise LlamacliError(f"llama.cpp failed to evaluate (code {code}){because()}")
        finished: list[Any] = []
        made = 0
        for running, count, row in rows:
            running.evaluated += count
            if row is None:
                continue
            made += 1
            try:
                self._choose(running, row)
            except LlamacliError as error:
                finished.append((running.index, error))
                self._drop(running)
                continue
            if running.answer.reason is not None:
                finished.append((running.index, result(running)))
                self._drop(running)
        return made, finished

    def _evaluate(self, interrupted: Callable[[], bool]) -> int:
        """llama_decode's code. Long prompts can be interrupted; a call an operation would slow
        down single tokens."""
        library, context, batch = (
            self.engine.library,
            self.engine.context_pointer,
            self.engine.batch,
        )
        if batch.n_tokens <= 2 * self.engine.parallel:
            return int(library.llama_decode(context, batch))
        callback = library.ggml_abort_callback(lambda _: interrupted())
        library.llama_set_abort_callback(context, callback, None)
        try:
            return int(library.llama_decode(context, batch))
        finally:
            library.llama_set_abort_callback(context, library.ggml_abort_callback(0), None)

    def _start(self, running: Running) -> None:
        """Give it a sequence, and there what others have in common with it already."""
        library, memory = self.engine.library, self.engine.memory
        used = {other.sequence for other in self.running}
        running.sequence = next(i for i in range(1, self.engine.parallel + 1) if i not in used)
        tokens = running.tokens
        source, shared = PREFIX, common_prefix(self.prefix, tokens)
        for other in self.running:
            if (common := self._common(other, tokens)) > shared:
                source, shared = other.sequence, common
        shared = min(shared, len(tokens) - 1)
        if source != PREFIX and shared:
            library.llama_memory_seq_rm(memory, PREFIX, -1, -1)
            library.llama_memory_seq_cp(memory, source, PREFIX, 0, shared)
            self.prefix = tokens[:shared]
        if shared:
            library.llama_memory_seq_cp(memory, source, running.sequence, 0, shared)
        running.evaluated = shared
        if not running.answer.tokens:
            running.cached = shared
        self.running.append(running)

    def _common(self, other: Running, tokens: Sequence[int]) -> int:
        """Tokens in common that are in the cache."""
        return min(common_prefix(other.tokens, tokens), other.evaluated)

    def _should_wait(self, job: Job) -> bool:
        """Whether another is about to evaluate what this one could share."""
        for other in self.running:
            common = common_prefix(other.job.prompt, job.prompt)
            have = max(other.evaluated, common_prefix(self.prefix, job.prompt))
            if min(common, len(job.prompt) - 1) - have >= WORTH_WAITING:
                return True
        return False

    def _fill(self) -> list[tuple[Running, int, int | None]]:
        """Put tokens into the batch: of each running job how many, and the row of its logits.

        Those that only need their last token come first, so that no long prompt holds them up.
        """
        batch = self.engine.batch
        rows: list[tuple[Running, int, int | None]] = []
        at = 0
        for running in sorted(self.running, key=lambda one: one.length - one.evaluated):
            count = min(running.length - running.evaluated, self.engine.rows - at)
            for position in range(running.evaluated, running.evaluated + count):
                batch.token[at] = running.token(position)
                batch.pos[at] = position
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = running.sequence
                batch.logits[at] = last = position == running.length - 1
                at += 1
            if count:
                rows.append((running, count, at - 1 if last else None))
        batch.n_tokens = at
        return rows

    def _choose(self, running: Running, row: int) -> None:
        library, context = self.engine.library, self.engine.context_pointer
        if running.prefilled is None:
            running.prefilled = perf_counter()
        answer = running.answer
        if running.constraint is not None:
            import numpy as np

            values = library.llama_get_logits_ith(context, row)
            logits = np.ctypeslib.as_array(values, (self.engine.vocabulary.size,))
            token = running.constraint.choose(running.chain, logits, answer.left)
        else:
            token = library.llama_sampler_sample(running.chain, context, row)
        if not answer.tokens and not math.isfinite(
            library.llama_get_logits_ith(context, row)[token]
        ):
            raise InvalidModelError(f"{self.engine.path}: the model computes no numbers")
        answer.take(token)

    def _drop(self, running: Running) -> None:
        self._forget(running)
        running.resources.close()
        self.running.remove(running)
        while self.put_back and len(self.running) < self.engine.parallel and not self._crowded():
            self._start(self.put_back.popleft())

    def _forget(self, running: Running) -> None:
        library, memory = self.engine.library, self.engine.memory
        library.llama_memory_seq_rm(memory, running.sequence, -1, -1)
        running.evaluated = 0

    def _crowded(self) -> bool:
        """Whether the next one put back would fill the cache again."""
        used = sum(running.length for running in self.running) + len(self.prefix)
        return used + self.put_back[0].length + 256 > self.engine.cells

    def _make_room(self) -> None:
        """Put back the job that came last, or where it is alone, give up the kept prefix."""
        if len(self.running) > 1:
            latest = max(self.running, key=lambda one: one.index)
            self._forget(latest)
            self.running.remove(latest)
            self.put_back.append(latest)
        elif self.prefix:
            library, memory = self.engine.library, self.engine.memory
            library.llama_memory_seq_rm(memory, PREFIX, -1, -1)
            self.prefix = []
        else:
            raise DoesNotFitError(f"the cache of {self.engine.cells} tokens is full; lower -c")
