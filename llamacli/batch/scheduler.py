"""Sequences side by side in one context: a step evaluates one batch for all of them."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from llamacli.batch.choosing import choose, draw
from llamacli.batch.engine import BatchEngine
from llamacli.batch.job import Job, Running, scales_of
from llamacli.batch.kept import Kept
from llamacli.batch.pace import TILE, Pace
from llamacli.batch.proposals import Proposals
from llamacli.engine import ABORTED, NoNumbersError, Part, common_prefix, decode_error
from llamacli.errors import DoesNotFitError, LlamacliError
from llamacli.speculate import Costs, measured_costs

if TYPE_CHECKING:
    from llamacli.batch.choosing import Logits

WORTH_WAITING = 16  # tokens that another sequence is evaluating already
FULL = 1  # llama_decode's code where the cache has no room
MARGIN = 256  # cells that stay free when one that had to make room goes on

Parts = list[tuple[Running, int]]  # how many tokens of each a batch has


@dataclass
class Step:
    """What a step came to: each answer that grew with the text that can be shown; those at their
    end (error is set where they failed); tokens of prompts that were read; evaluations."""

    grown: list[tuple[Running, str]] = field(default_factory=list)
    finished: list[Running] = field(default_factory=list)
    read: int = 0
    evaluations: int = 0


@dataclass
class Scheduler:
    """Jobs that run; they may join and leave between any two steps.

    Without a pace a step reads as much of the prompts as a batch holds.
    """

    engine: BatchEngine
    pace: Pace | None = None
    running: list[Running] = field(default_factory=list)
    put_back: deque[Running] = field(default_factory=deque)  # had to make room
    kept: Kept = field(init=False)
    proposals: Proposals = field(init=False)

    def __post_init__(self) -> None:
        self.kept = Kept(self.engine, self.running)
        self.proposals = Proposals(self.engine, self.running, self.pace, self._measure)

    @property
    def has_room(self) -> bool:
        """Whether another job can start now."""
        return len(self.running) < self.engine.parallel and not self.put_back

    def start(self, running: Running) -> None:
        self.kept.begin(running)
        self.proposals.begin(running)

    def leave(self, running: Running) -> None:
        """Take it out; what it has in the cache stays until its cells are needed."""
        if running in self.put_back:
            self.put_back.remove(running)
        elif running in self.running:  # else it couldn't begin
            self.running.remove(running)
            self._trim(running)
            self.kept.keep(running)
        running.resources.close()
        self.bring_back()

    def bring_back(self) -> None:
        """Go on with those that had to make room, where there is some again."""
        while self.put_back and len(self.running) < self.engine.parallel and not self._crowded():
            self.start(self.put_back.popleft())

    def should_wait(self, job: Job) -> bool:
        """Whether another is about to evaluate what this one could share."""
        if not self.running:
            return False
        scales, most = scales_of(self.engine, job), len(job.prompt) - 1
        have = self.kept.best(job.prompt, scales)
        return any(
            min(common_prefix(one.job.prompt, job.prompt), most) - have >= WORTH_WAITING
            for one in self.running
            if one.scales == scales
        )

    def step(
        self,
        interrupted: Callable[[], bool] | None = None,
        on_evaluate: Callable[[], None] = lambda: None,
    ) -> Step:
        """Evaluate batches and choose a token for each sequence that is up to date.

        on_evaluate is called before each evaluation, when nothing else is left to do for it. Raises
        LlamacliError where llama.cpp fails, DoesNotFitError where the cache can't hold even one.
        """
        step = Step()
        for parts in self._batches():
            if parts and not self._evaluate(parts, step, interrupted, on_evaluate):
                break
        return step

    def _batches(self) -> list[Parts]:
        """Those with the same adapters together, in no batch with others, and exact ones by
        themselves, in the shapes that a single run has.

        Answers' tokens are in a batch of their own, the first one, where a CPU's flash attention
        goes by tiles: one with tokens of several answers takes all that is in the cache of any."""
        batches = []
        together = [one for one in self.running if not one.job.exact]
        for scales in {one.scales: None for one in together}:
            answers, prompts = self._shared([one for one in together if one.scales == scales])
            batches += [answers, prompts] if self.engine.tiles else [answers + prompts]
        exact = [one for one in self.running if one.job.exact]
        return batches + [[(one, min(one.left, self.engine.rows))] for one in exact]

    def _shared(self, together: Sequence[Running]) -> tuple[Parts, Parts]:
        """How many tokens of each are evaluated: the next one of an answer, and of the prompts
        what the pace lets through.

        Prompts that come together are read one after the other, so that the first ones' first
        tokens needn't wait for all."""
        left = [(one, one.left) for one in together]
        prompts = [(one, count) for one, count in left if count > 1]
        if not prompts:
            return left, prompts
        answers = [(one, count) for one, count in left if count == 1]
        pending, room = sum(count for _, count in prompts), self.engine.rows - len(answers)
        # Whoever is answered beside them waits, too: exact ones, and those with other adapters.
        waiting = [one for one in self.running if one.left == 1]
        if self._come_together(waiting, pending, pending <= room):
            return [(one, 1) for one, _ in answers if not one.answer.tokens], _some(prompts, room)
        if self.pace is not None and waiting:
            beside = 0 if self.engine.tiles else len(answers)  # in the prompts' batch
            room = min(room, self.pace.most(beside, pending))
        return answers, _shares(prompts, room)

    def _come_together(self, waiting: Sequence[Running], pending: int, fits: bool) -> bool:
        """Whether so many tokens of prompts are to be read at once, since there are no answers but
        such as can wait."""
        if self.pace is None or any(len(one.answer.tokens) > 1 for one in waiting):
            return False
        begun = [one.prefilled for one in waiting if one.prefilled is not None]
        waited = perf_counter() - min(begun) if begun else None
        return self.pace.together(pending, waited, fits)

    def _evaluate(
        self,
        parts: Parts,
        step: Step,
        interrupted: Callable[[], bool] | None,
        on_evaluate: Callable[[], None],
    ) -> bool:
        """Whether the batch was evaluated; where not, room was made, or it was interrupted."""
        started, engine = perf_counter(), self.engine
        engine.use_adapters(parts[0][0].scales)
        if engine.speculation is not None:
            self.proposals.propose([running for running, _ in parts], engine.speculation)
        rows = engine.fill([running.next(count) for running, count in parts])
        on_evaluate()
        if self.kept.left:
            self.kept.make_way()
        code = engine.evaluate(interrupted)
        if code == FULL:
            self._make_room()
        if code in (FULL, ABORTED):
            return False
        if code:
            raise decode_error(code)
        ready, read, beside = [], 0, 0
        for (running, count), row in zip(parts, rows, strict=True):
            running.evaluated += count
            running.spare = len(running.proposed)
            if running.prefilled is None:
                read += count
            else:
                beside += 1
            if row is not None:
                ready.append((running, row))
        step.read += read
        step.evaluations += 1
        if ready:
            logits = engine.all_logits(-ready[0][1])
            tokens = choose(engine, ready, logits)
            for (running, row), token in zip(ready, tokens, strict=True):
                self._take_all(running, row, token, logits, step)
        if self.pace is not None:
            self.pace.measured(read, beside, perf_counter() - started)
        return True

    def _measure(self) -> Costs:
        """What checking drafts costs here, beside what is in the cache."""
        number = self.kept.unused()

        def evaluate(size: int) -> None:
            self.engine.fill([Part(number, 0, [0] * size, size)])
            while (code := self.engine.evaluate()) == FULL:
                if not self.kept.free_oldest():
                    break
            if code:
                raise decode_error(code)
            self.engine.logit(0)  # waits for a device that computes on its own
            self.engine.drop(number)

        return measured_costs(evaluate)

    def _take_all(
        self, running: Running, row: int, token: int | LlamacliError, logits: "Logits", step: Step
    ) -> None:
        """The token that was chosen, and those after it as long as they are the drafted ones."""
        proposed, accepted = running.proposed, 0
        while self._take(running, token, logits[row + accepted], step):
            if accepted == len(proposed) or token != proposed[accepted]:
                break
            accepted += 1
            if running.spare:  # it is in the cache, unless that was emptied
                running.evaluated, running.spare = running.evaluated + 1, running.spare - 1
            token = draw(running, row + accepted, logits)
        self._trim(running)
        if running.drafts is not None:
            running.drafts.accept(accepted)

    def _trim(self, running: Running) -> None:
        """Free the cells of what was drafted, and isn't the answer's."""
        if running.spare:
            self.engine.drop(running.sequence, running.evaluated)
            running.spare = 0

    def _take(
        self, running: Running, token: int | LlamacliError, logits: "Logits", step: Step
    ) -> bool:
        """Whether an answer goes on with the token that was chosen for it, or what was wrong."""
        try:
            if isinstance(token, LlamacliError):
                raise token
            self.engine.check_number(logits[token])
        except LlamacliError as error:
            running.error = error
            if isinstance(error, NoNumbersError):
                self._begin_anew()  # before it leaves: nothing that is gone may be kept
        else:
            step.grown.append((running, running.take(token, logits)))
            if running.answer.reason is None:
                return True
        self.leave(running)
        step.finished.append(running)
        return False

    def _begin_anew(self) -> None:
        """Have those that run read anew: the cache was emptied. What is set aside stays."""
        for running in self.running:
            running.evaluated = running.spare = 0
        self.kept.left.clear()

    def _crowded(self) -> bool:
        """Whether the next one put back would fill the cache again."""
        cells = sum(len(one.tokens) for one in (*self.running, self.put_back[0]))
        return bool(self.running) and cells + MARGIN > self.engine.cells

    def _make_room(self) -> None:
        """Give up what finished ones left, the oldest first; else put back the job that came
        last."""
        if self.kept.free_oldest():
            return
        if len(self.running) == 1:
            raise DoesNotFitError(f"the cache of {self.engine.cells} tokens is full; lower -c")
        latest = max(self.running, key=lambda one: one.index)
        self.engine.drop(latest.sequence)
        latest.evaluated = 0
        self.running.remove(latest)
        self.put_back.append(latest)


def _shares(prompts: Parts, room: int) -> Parts:
    """As many of their tokens as there is room for: half of it the one's that came first, then the
    shortest ones'."""
    given = [0] * len(prompts)
    shortest = sorted(range(len(prompts)), key=lambda i: prompts[i][1])
    for i, most in [(0, max(1, room // 2)), *((i, room) for i in shortest)]:
        more = min(prompts[i][1] - given[i], most, room)
        given[i], room = given[i] + more, room - more
    return [(one, count) for (one, _), count in zip(prompts, given, strict=True) if count]


def _some(prompts: Parts, room: int) -> Parts:
    """The first of them, as many as a batch is worth, and of their tokens as many as it holds."""
    parts: Parts = []
    for one, count in prompts:
        if room <= 0 or sum(count for _, count in parts) >= TILE:
            break
        parts.append((one, min(count, room)))
        room -= count
    return parts
