"""Sequences side by side in one context: a step evaluates one batch for all of them."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from time import perf_counter

from llamacli.batch.choosing import choose, draw
from llamacli.batch.engine import BatchEngine, Part
from llamacli.batch.job import Job, Running, scales_of, token_logprob
from llamacli.batch.kept import Kept
from llamacli.batch.pace import TILE, Pace
from llamacli.batch.proposals import Proposals
from llamacli.engine import ABORTED, NoNumbersError, common_prefix
from llamacli.errors import DoesNotFitError, LlamacliError
from llamacli.machine import logged_reason
from llamacli.speculate import Costs, measured_costs

WORTH_WAITING = 16  # tokens that another sequence is evaluating already
FULL = 1  # llama_decode's code where the cache has no room
MARGIN = 256  # cells that stay free when one that had to make room goes on


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
        self.proposals = Proposals(self.engine, self._measure)

    @property
    def has_room(self) -> bool:
        """Whether another job can start now."""
        return len(self.running) < self.engine.parallel and not self.put_back

    def start(self, running: Running) -> None:
        self.kept.begin(running)
        self.proposals.begin(running)
        self.running.append(running)

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
        scales = scales_of(self.engine, job)
        kept = self.kept.best(job.prompt, scales)
        for other in [one for one in self.running if one.scales == scales]:
            common = common_prefix(other.job.prompt, job.prompt)
            have = max(min(other.evaluated, common), kept)
            if min(common, len(job.prompt) - 1) - have >= WORTH_WAITING:
                return True
        return False

    def step(
        self,
        interrupted: Callable[[], bool] | None = None,
        on_evaluate: Callable[[], None] = lambda: None,
    ) -> Step:
        """Evaluate batches and choose a token for each sequence that is up to date.

        Exact ones are evaluated by themselves, in the shapes that a single run has, and those with
        the same adapters together, in no batch with others. on_evaluate is called before each
        evaluation, when nothing else is left to do for it. Raises
        LlamacliError where llama.cpp fails, DoesNotFitError where the cache can't hold even one.
        """
        step = Step()
        together = [running for running in self.running if not running.job.exact]
        batches: list[list[tuple[Running, int]]] = []
        for scales in dict.fromkeys(running.scales for running in together):
            group = [running for running in together if running.scales == scales]
            batches += self._parted(self._share(group))
        for running in [one for one in self.running if one.job.exact]:
            batches.append([(running, min(running.length - running.evaluated, self.engine.rows))])
        for batch in batches:
            if not self._evaluate(batch, step, interrupted, on_evaluate):
                break
        return step

    def _parted(self, parts: list[tuple[Running, int]]) -> list[list[tuple[Running, int]]]:
        """Answers' tokens in a batch of their own, the first one, where a CPU's flash attention
        goes by tiles: one with tokens of several answers takes all that is in the cache of any."""
        if not self.engine.tiles:
            return [parts]
        answers = [(one, n) for one, n in parts if one.length - one.evaluated == 1]
        prompts = [(one, n) for one, n in parts if one.length - one.evaluated > 1]
        return [batch for batch in (answers, prompts) if batch]

    def _share(self, together: Sequence[Running]) -> list[tuple[Running, int]]:
        """How many tokens of each are evaluated: the next one of an answer, and of the prompts
        what the pace lets through, half of it the one that came first, then the shortest.

        Prompts that come together are read one after the other, so that the first ones' first
        tokens needn't wait for all."""
        left = [(one, one.length - one.evaluated) for one in together]
        parts = {id(one): (one, 1) for one, count in left if count == 1}
        prompts = [(one, count) for one, count in left if count > 1]
        pending, room = sum(count for _, count in prompts), self.engine.rows - len(parts)
        # Whoever is answered beside them waits, too: exact ones, and those with other adapters.
        waiting = [one for one in self.running if one.length - one.evaluated == 1]
        if pending <= room and self._come_together(waiting, pending):
            beginning = [(one, 1) for one, _ in parts.values() if not one.answer.tokens]
            return beginning + _some(prompts)
        if self.pace is not None and waiting:
            beside = 0 if self.engine.tiles else len(parts)  # in the prompts' batch
            room = min(room, self.pace.most(beside, pending))
        if len(prompts) > 1:
            first, count = prompts[0]
            parts[id(first)] = (first, min(count, max(1, room // 2)))
            room -= parts[id(first)][1]
        for one, count in sorted(prompts, key=lambda prompt: prompt[1]):
            _, given = parts.get(id(one), (one, 0))
            more = min(count - given, room)
            room -= more
            if given + more:
                parts[id(one)] = (one, given + more)
        return list(parts.values())

    def _come_together(self, waiting: Sequence[Running], pending: int) -> bool:
        """Whether so many tokens of prompts are to be read at once, since there are no answers but
        such as can wait."""
        if self.pace is None or not pending or any(len(one.answer.tokens) > 1 for one in waiting):
            return False
        begun = [one.prefilled for one in waiting if one.prefilled is not None]
        return self.pace.together(pending, perf_counter() - min(begun) if begun else None)

    def _evaluate(
        self,
        parts: list[tuple[Running, int]],
        step: Step,
        interrupted: Callable[[], bool] | None,
        on_evaluate: Callable[[], None],
    ) -> bool:
        """Whether the batch was evaluated; where not, room was made, or it was interrupted."""
        started = perf_counter()
        self.engine.use_adapters(parts[0][0].scales)
        self._propose(parts)
        rows = self.engine.fill([running.next(count) for running, count in parts])
        on_evaluate()
        self.kept.make_way()
        code = self.engine.evaluate(interrupted)
        if code == FULL:
            self._make_room()
        if code in (FULL, ABORTED):
            return False
        if code:
            raise LlamacliError(f"llama.cpp failed to evaluate (code {code}){logged_reason()}")
        read = sum(count for running, count in parts if running.prefilled is None)
        beside = sum(running.prefilled is not None for running, _ in parts)
        step.read += read
        step.evaluations += 1
        for running, count in parts:
            running.evaluated += count
            running.spare = len(running.proposed)
        ready = [(one, row) for (one, _), row in zip(parts, rows, strict=True) if row is not None]
        for (running, row), token in zip(ready, choose(self.engine, ready), strict=True):
            self._take_all(running, row, token, step)
        if any(isinstance(one.error, NoNumbersError) for one, _ in ready):
            return False  # the cache was emptied: all that run are to be read anew
        if self.pace is not None:
            self.pace.measured(read, beside, perf_counter() - started)
        return True

    def _propose(self, parts: list[tuple[Running, int]]) -> None:
        """Have drafts beside the answers' next tokens, but none where a prompt is read."""
        answers = [running for running, _ in parts if running.drafts is not None]
        if not answers:
            return
        free = self.engine.cells - sum(running.length for running in self.running)
        if any(one.length - one.evaluated > 1 or one.prefilled is None for one in self.running):
            free = 0
        numbers = {running.sequence for running in self.running}
        others = self.pace is not None and len(parts) > 1
        read = self.pace.most() if self.pace is not None and others else None
        self.proposals.propose(answers, free, numbers, read=read, even=others)

    def _measure(self) -> Costs:
        """What checking drafts costs here, beside what is in the cache."""
        number = self.kept.unused()

        def evaluate(size: int) -> None:
            self.engine.fill([Part(number, 0, [0] * size, size)])
            while (code := self.engine.evaluate()) == FULL:
                if not self.kept.free_oldest():
                    break
            if code:
                raise LlamacliError(f"llama.cpp failed to evaluate (code {code}){logged_reason()}")
            self.engine.logit(0, size - 1)
            self.engine.drop(number)

        return measured_costs(evaluate)

    def _take_all(self, running: Running, row: int, token: int | LlamacliError, step: Step) -> None:
        """The token that was chosen, and those after it as long as they are the drafted ones."""
        proposed, accepted = running.proposed, 0
        while True:
            right = accepted < len(proposed) and token == proposed[accepted]
            self._take(running, row + accepted, token, step)
            if not right or running not in self.running:
                break
            accepted += 1
            if running.spare:  # it is in the cache, unless that was emptied
                running.evaluated, running.spare = running.evaluated + 1, running.spare - 1
            token = draw(self.engine, running, row + accepted)
        self._trim(running)
        if running.drafts is not None:
            running.drafts.accept(accepted)

    def _trim(self, running: Running) -> None:
        """Free the cells of what was drafted, and isn't the answer's."""
        if running.spare:
            self.engine.drop(running.sequence, running.evaluated)
            running.spare = 0

    def _take(self, running: Running, row: int, token: int | LlamacliError, step: Step) -> None:
        """What becomes of an answer with the token that was chosen for it."""
        engine, answer = self.engine, running.answer
        if running.prefilled is None:
            running.prefilled = perf_counter()
        try:
            if isinstance(token, LlamacliError):
                raise token
            engine.check_logit(token, row)
        except LlamacliError as error:
            running.error = error
            if isinstance(error, NoNumbersError):
                self._begin_anew()  # before it leaves: nothing that is gone may be kept
        else:
            if running.job.logprobs is not None and token not in engine.vocabulary.end_tokens:
                logprob = token_logprob(engine.logits(row), token, running.job.logprobs)
                running.logprobs.append(logprob)
            if running.drafts is not None:
                running.drafts.lookup.extend((token,))
            step.grown.append((running, answer.take(token)))
        if running.error is not None or answer.reason is not None:
            self.leave(running)
            step.finished.append(running)

    def _begin_anew(self) -> None:
        """Have those that run read anew: the cache was emptied."""
        for running in self.running:
            running.evaluated = running.spare = 0
        self.kept.forget()

    def _crowded(self) -> bool:
        """Whether the next one put back would fill the cache again."""
        used = sum(running.length for running in self.running)
        return bool(self.running) and (used + self.put_back[0].length + MARGIN > self.engine.cells)

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


def _some(prompts: Sequence[tuple[Running, int]]) -> list[tuple[Running, int]]:
    """The first of them, as many as a batch is worth, and all of their tokens."""
    tokens = list(accumulate(count for _, count in prompts))
    return [one for one, until in zip(prompts, [0, *tokens], strict=False) if until < TILE]
