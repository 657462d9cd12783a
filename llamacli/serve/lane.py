"""A loaded model in the engine's thread: the jobs that wait for it, and those that run."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from llamacli.batch import BatchEngine, Job, Pace, Running, Scheduler, prepare, result
from llamacli.errors import LlamacliError
from llamacli.serve.logprobs import Telling
from llamacli.serve.metrics import Metrics
from llamacli.serve.stream import Piece

Deliver = Callable[[Piece], None]


@dataclass(eq=False)
class Task:
    """A job on its way: deliver gets its pieces, in the engine's thread."""

    index: int
    job: Job
    deliver: Deliver
    progress: bool = False  # whether it gets how much of the prompt is read, too
    asked: float = field(default_factory=perf_counter)
    running: Running | None = None
    telling: Telling = field(default_factory=Telling)
    last: float = 0.0  # when its last token came

    def tell(self, text: str = "", *, last: bool = False) -> None:
        """The next piece: text that is ready with the probabilities of its tokens, or the end."""
        running = self.running
        if running is None or not (text or last):
            return
        if last and running.error is not None:
            self.deliver(Piece(self.index, error=running.error))
            return
        if last:
            text = running.answer.text.finish()
        logprobs = self.telling.ready(running.answer, running.logprobs, text, last=last)
        ended = result(running) if last else None
        self.deliver(Piece(self.index, text, logprobs=logprobs, result=ended, held=running.held))


class Lane:
    """Used in the engine's thread alone, but for engine's vocabulary and file."""

    def __init__(self, engine: BatchEngine, pace: Pace, metrics: Metrics) -> None:
        self.engine, self.metrics = engine, metrics
        self.scheduler = Scheduler(engine, pace)
        self.waiting: deque[Task] = deque()
        self.tasks: dict[int, Task] = {}  # those that run, by their numbers
        self.started = 0

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.tasks)

    @property
    def reads(self) -> bool:
        """Whether a prompt is being read."""
        return any(one.prefilled is None for one in self.scheduler.running)

    def submit(self, *tasks: Task) -> None:
        self.waiting.extend(tasks)

    def cancel(self, tasks: Sequence[Task]) -> None:
        """Take them out; their sequences are free before the next step."""
        for task in tasks:
            if task in self.waiting:
                self.waiting.remove(task)
            elif task.running is not None and task.running.index in self.tasks:
                del self.tasks[task.running.index]
                self.scheduler.leave(task.running)
        self._count()

    def fail(self, tasks: Sequence[Task], error: LlamacliError) -> None:
        """Take them out, with an error for those that weren't at their end."""
        going = [t for t in tasks if t in self.waiting or t in self.tasks.values()]
        self.cancel(going)
        for task in going:
            task.deliver(Piece(task.index, error=error))

    def end_all(self, error: LlamacliError) -> None:
        """End everything with an error; what is in the cache stays."""
        self.fail([*self.waiting, *self.tasks.values()], error)

    def fail_all(self, error: LlamacliError) -> None:
        """End everything with an error, and forget what is in the cache."""
        self.scheduler.put_back.clear()  # none of them is to go on as another leaves
        self.end_all(error)
        self.engine.library.llama_memory_clear(self.engine.memory, False)
        self.scheduler = Scheduler(self.engine, self.scheduler.pace)

    def turn(self, on_evaluate: Callable[[], None]) -> None:
        """A step of those that run; on_evaluate is the scheduler's."""
        if not self.scheduler.running:
            return
        begun = perf_counter()
        try:
            step = self.scheduler.step(on_evaluate=on_evaluate)
        except LlamacliError as error:
            self.fail_all(error)
            return
        now = perf_counter()
        self.metrics.step(step, len(self.scheduler.running) + len(step.finished), now - begun)
        for running, text in step.grown:
            task = self.tasks[running.index]
            self.metrics.token(now, task.asked, task.last)
            task.last = now
            if running.answer.reason is None or text:
                task.tell(text)
        for task in self.tasks.values():
            if task.progress and task.running is not None and task.running.prefilled is None:
                task.deliver(Piece(task.index, read=task.running.evaluated))
        for running in step.finished:
            self.tasks.pop(running.index).tell(last=True)
            self.metrics.ended(running)
        if step.finished:
            self._count()

    def admit(self) -> bool:
        """Start what can start; whether there was something."""
        if not self.waiting:
            return False
        before = self.started
        for task in list(self.waiting):
            if not self.scheduler.has_room:
                break
            if self.scheduler.should_wait(task.job):
                continue
            try:
                task.running = prepare(self.engine, self.started, task.job)
            except LlamacliError as error:
                self.fail([task], error)
                continue
            self.waiting.remove(task)
            self.tasks[self.started] = task
            self.started += 1
            self.scheduler.start(task.running)
            self.metrics.cached_tokens.inc(task.running.cached)
        self._count()
        return self.started > before

    def _count(self) -> None:
        self.metrics.processing.set(len(self.tasks))
        self.metrics.deferred.set(len(self.waiting))
