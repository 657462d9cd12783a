"""Jobs that join and leave between steps: what they share, and what they leave behind."""

import random
import subprocess
import sys
from collections.abc import Iterator
from ctypes import c_uint8
from pathlib import Path
from typing import Any

import pytest

from llamacli.batch import BatchEngine, Job, Pace, Running, Scheduler, prepare
from llamacli.batch.aside import Left, State
from llamacli.batch.job import token_logprob
from llamacli.engine import Engine, EngineSettings, SamplingSettings
from llamacli.errors import LlamacliError
from llamacli.serve.lane import Lane, Task
from llamacli.serve.metrics import Metrics
from tests.standins.tiny import write_model

SETTINGS = EngineSettings(threads=1)
GREEDY = SamplingSettings(temperature=0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def scheduler(path: Path) -> Iterator[Scheduler]:
    with BatchEngine(path, SETTINGS, 4) as engine:
        yield Scheduler(engine, Pace())


def prompt(length: int, seed: int = 0) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(3, 700) for _ in range(length)]


def begin(scheduler: Scheduler, job: Job, index: int = 0) -> Running:
    running = prepare(scheduler.engine, index, job)
    scheduler.start(running)
    return running


def finish(scheduler: Scheduler, running: Running) -> list[int]:
    while running in scheduler.running or running in scheduler.put_back:
        scheduler.step()
    assert running.error is None
    return running.answer.tokens


def test_a_turn_goes_on_where_the_last_one_ended(scheduler: Scheduler) -> None:
    first = begin(scheduler, Job(prompt(100), GREEDY, 10))
    answer = finish(scheduler, first)
    second = begin(scheduler, Job([*prompt(100), *answer, *prompt(20, 1)], GREEDY, 5))
    assert second.cached == 100 + len(answer) - 1  # the last one's cells were never needed
    assert second.sequence == first.sequence
    finish(scheduler, second)


@pytest.mark.parametrize(("flash", "batches"), [("on", [[1, 1], [30]]), ("off", [[1, 1, 30]])])
def test_where_attention_has_tiles_answers_share_no_batch_with_prompts(
    path: Path, monkeypatch: pytest.MonkeyPatch, flash: str, batches: list[list[int]]
) -> None:
    """And what the step before said is told as the first of them is evaluated, not before."""
    settings = EngineSettings(threads=1, flash_attention=flash)
    with BatchEngine(path, settings, 4) as engine:
        happened = told_beside_a_prompt(Scheduler(engine, Pace()), monkeypatch)
    assert happened == [one for batch in batches for one in (batch, "evaluated")]


def told_beside_a_prompt(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What happens in a step of two answers and a prompt: batches, and that they are evaluated."""
    begin(scheduler, Job(prompt(20), GREEDY, 9))
    begin(scheduler, Job(prompt(20, 1), GREEDY, 9), 1)
    scheduler.step()
    scheduler.step()
    begin(scheduler, Job(prompt(30, 2), GREEDY, 9), 2)
    happened: list[list[int] | str] = []
    fill = scheduler.engine.fill

    def watched(parts: Any) -> Any:
        happened.append([len(part.tokens) for part in parts])
        return fill(parts)

    monkeypatch.setattr(scheduler.engine, "fill", watched)
    step = scheduler.step(on_evaluate=lambda: happened.append("evaluated"))
    assert step.evaluations == len(happened) // 2 and len(step.grown) == 3
    return happened


def test_one_that_leaves_is_gone_at_once_and_what_it_read_stays(scheduler: Scheduler) -> None:
    gone, stays = begin(scheduler, Job(prompt(60), GREEDY, 500)), prompt(30, 2)
    other = begin(scheduler, Job(stays, GREEDY, 8), 1)
    for _ in range(3):
        scheduler.step()
    scheduler.leave(gone)
    assert scheduler.running == [other]
    finish(scheduler, other)
    assert begin(scheduler, Job(prompt(60), GREEDY, 2), 2).cached == 59


def test_cells_are_freed_where_they_are_needed(path: Path) -> None:
    with BatchEngine(path, EngineSettings(threads=1, context=512), 1) as engine:
        scheduler = Scheduler(engine)
        for seed in range(6):
            answer = finish(scheduler, begin(scheduler, Job(prompt(300, seed), GREEDY, 4)))
            assert len(answer) <= 4
        assert 0 < scheduler.kept.cells <= engine.cells


def test_no_more_sequences_are_kept_than_there_are(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler.kept.aside, "most", 0)  # as where a GPU has the cells
    for seed in range(40):
        finish(scheduler, begin(scheduler, Job(prompt(8, seed), GREEDY, 2)))
    assert len(scheduler.kept.left) == 16


def test_one_that_shares_nothing_makes_none_the_one_used_last(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler.kept.aside, "most", 0)  # as where a GPU has the cells
    for seed in range(2):
        finish(scheduler, begin(scheduler, Job(prompt(40, seed), GREEDY, 2)))
    before = list(scheduler.kept.left)
    begin(scheduler, Job([2, *prompt(40, 9)], GREEDY, 2))
    assert list(scheduler.kept.left) == before


START = prompt(80)
ASKED = [[*START, *prompt(60 + seed, seed)] for seed in range(1, 4)]  # share that start


def set_all_aside(scheduler: Scheduler) -> list[list[int]]:
    """The answers to ASKED, none of whose cells are in the cache any more."""
    began = [begin(scheduler, Job(asked, GREEDY, 6), i) for i, asked in enumerate(ASKED)]
    answers = [finish(scheduler, running) for running in began]
    other = begin(scheduler, Job(prompt(50, 9), GREEDY, 400), 9)
    for _ in range(5):
        scheduler.step()
    engine = scheduler.engine
    ends = [engine.library.llama_memory_seq_pos_max(engine.memory, n) for n in range(20)]
    assert [n for n, end in enumerate(ends) if end >= 0] == [other.sequence]
    return answers


def test_what_nobody_answers_in_is_out_of_the_cache_while_others_answer(
    scheduler: Scheduler, path: Path
) -> None:
    """llama.cpp's attention goes over all cells. Who goes on from it finds it again."""
    answers = set_all_aside(scheduler)
    assert scheduler.kept.left == {}
    states = scheduler.kept.aside.states
    assert sorted(state.start for state in states) == [0, 80, 80]  # the start is there once
    for i in (1, 2, 0):
        longer = [*ASKED[i], *answers[i], *prompt(30, 7)]
        again = begin(scheduler, Job(longer, GREEDY, 8), 20 + i)
        assert again.cached == len(ASKED[i]) + len(answers[i]) - 1
        with Engine(path, SETTINGS) as single:
            single.prefill(longer)
            expected = list[int]()
            while len(expected) < 8:
                expected.append(int(single.logits().argmax()))
                single.decode(expected[-1])
        got = finish(scheduler, again)
        assert got == expected[: len(got)]


def logprobs(scheduler: Scheduler, asked: list[int], index: int) -> list[Any]:
    """Those of a greedy answer, and how much of the prompt was in the cache."""
    running = begin(scheduler, Job(asked, GREEDY, 6, logprobs=2), index)
    finish(scheduler, running)
    return [running.cached, *running.logprobs]


def test_a_repeated_question_has_the_same_answer_to_the_last_bit(path: Path) -> None:
    """What others left meanwhile is out of its way, and what it left lies where it lay."""
    settings = EngineSettings(threads=1, flash_attention="off")
    with BatchEngine(path, settings, 4) as engine:
        scheduler = Scheduler(engine, Pace())
        for number, asked in enumerate(ASKED):
            logprobs(scheduler, asked, number)
        repeated = [logprobs(scheduler, asked, 10) for asked in ASKED]
        assert [one[0] for one in repeated] == [len(asked) - 1 for asked in ASKED]
        others = [
            begin(scheduler, Job(asked, GREEDY, 20), 20 + i)
            for i, asked in enumerate([*ASKED, prompt(50, 9)])
        ]
        for other in others:
            finish(scheduler, other)
        assert [logprobs(scheduler, asked, 30) for asked in ASKED] == repeated


def test_what_is_set_aside_is_there_to_be_saved(scheduler: Scheduler) -> None:
    answers = set_all_aside(scheduler)
    scheduler.leave(scheduler.running[0])
    held = [left.tokens for left in scheduler.kept.each_in_first(3)]
    whole = [[*asked, *answer[:-1]] for asked, answer in zip(ASKED, answers, strict=True)]
    assert len(held) == 3 and sum(one in held for one in whole) == 2  # and the last one's


def test_what_can_not_be_put_back_is_read_anew(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = [*ASKED[0], *set_all_aside(scheduler)[0], *prompt(30, 7)]
    monkeypatch.setattr(scheduler.engine, "restore_sequence", lambda number, state: False)
    again = begin(scheduler, Job(longer, GREEDY, 4), 31)
    assert again.cached == 0
    expected = begin(scheduler, Job(longer, GREEDY, 4, exact=True), 32)
    assert finish(scheduler, again) == finish(scheduler, expected)


def test_what_is_set_aside_takes_no_more_memory_than_the_cache(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest goes; what lacks its start then is read anew."""
    aside = scheduler.kept.aside
    assert 0 < aside.most <= scheduler.engine.kv_nbytes
    answers = set_all_aside(scheduler)
    whole = next(state for state in aside.states if not state.start)
    parts = [state for state in aside.states if state.start]
    aside.states[:] = [whole, *parts]
    aside.most = sum(len(state.data) for state in parts)
    finish(scheduler, begin(scheduler, Job(prompt(40, 11), GREEDY, 2), 30))
    begin(scheduler, Job(prompt(40, 12), GREEDY, 100), 31)
    assert 0 < aside.nbytes <= aside.most and whole not in aside.states
    assert begin(scheduler, Job([*ASKED[0], *answers[0], 5], GREEDY, 2), 32).cached == 0
    monkeypatch.setattr("llamacli.batch.aside.MOST", 2)
    for seed in range(3):
        finish(scheduler, begin(scheduler, Job(prompt(8, seed), GREEDY, 2), 40 + seed))
        scheduler.step()
    assert len(aside.states) == 2


def test_what_is_put_back_may_be_given_up_as_room_is_made_for_it(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an exact one is answered others' cells stay, until one needs them."""
    aside, restore = scheduler.kept.aside, scheduler.engine.restore_sequence
    finish(scheduler, begin(scheduler, Job(prompt(60, 1), GREEDY, 2)))
    begin(scheduler, Job(prompt(50, 9), GREEDY, 400, exact=True), 1)
    finish(scheduler, begin(scheduler, Job(prompt(50, 3), GREEDY, 2), 2))
    assert len(aside.states) == len(scheduler.kept.left) == 1
    aside.most, full = aside.nbytes, [False]
    monkeypatch.setattr(
        scheduler.engine,
        "restore_sequence",
        lambda number, state: full.pop() if full else restore(number, state),
    )
    assert begin(scheduler, Job([*prompt(60, 1), 5], GREEDY, 2), 3).cached == 60
    assert [state.left.tokens[:50] for state in aside.states] == [prompt(50, 3)]


def left(tokens: list[int]) -> Left:
    return Left(tokens, (), None)


def test_what_has_lost_its_start_hides_nothing_shorter(scheduler: Scheduler) -> None:
    aside, data, tokens = scheduler.kept.aside, (c_uint8 * 1)(), prompt(90)
    whole = State(left([*tokens[:60], *prompt(9, 1)]), 0, data)
    middle = State(left([*tokens[:80], *prompt(9, 2)]), 50, data)
    end = State(left(tokens), 85, data)
    for states, parts in (
        ([whole, end], [(whole, 60)]),
        ([whole, middle, end], [(whole, 50), (middle, 80)]),
        ([middle, end], []),
    ):
        aside.states[:] = states
        assert aside.parts(left(tokens), 0) == parts
    assert aside.parts(left(tokens), 85) == [(end, 90)]
    aside.states.clear()


def test_what_is_too_long_to_be_set_aside_stays_in_the_cache(scheduler: Scheduler) -> None:
    engine, aside = scheduler.engine, scheduler.kept.aside
    aside.most = 60 * engine.kv_nbytes // engine.cells
    for length in (100, 50):
        finish(scheduler, begin(scheduler, Job(prompt(length, length), GREEDY, 2)))
    begin(scheduler, Job(prompt(40), GREEDY, 100), 1)
    scheduler.step()
    assert [len(one.tokens) > 99 for one in scheduler.kept.left.values()] == [True]
    assert [len(state.left.tokens) > 99 for state in aside.states] == [False]
    assert begin(scheduler, Job(prompt(100, 100), GREEDY, 2), 2).cached == 99


def test_one_that_can_not_begin_is_told_and_the_rest_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an error of ours, which must not end the engine's thread."""
    pieces: list[Any] = []
    with BatchEngine(path, SETTINGS, 4) as engine:
        lane = Lane(engine, Pace(), Metrics())
        with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
            patched.setattr(lane.scheduler.kept, "begin", lambda running: 1 / 0)
            lane.waiting.append(Task(0, Job(prompt(9), GREEDY, 3), pieces.append))
            lane.admit()
        lane.fail_all(LlamacliError("unexpected"))
        assert str(pieces.pop().error) == "unexpected" and not lane.busy
        lane.waiting.append(Task(0, Job(prompt(9), GREEDY, 3), pieces.append))
        while lane.busy:
            lane.admit()
            lane.turn(lambda: None)
    assert pieces[-1].result.answer_tokens


def test_one_that_can_not_be_prepared_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[Any] = []
    with BatchEngine(path, SETTINGS, 4) as engine:
        lane = Lane(engine, Pace(), Metrics())
        monkeypatch.setattr("llamacli.serve.lane.prepare", lambda *_: 1 / 0)
        lane.waiting.append(Task(0, Job(prompt(9), GREEDY, 3), pieces.append))
        with pytest.raises(ZeroDivisionError):
            lane.admit()
        lane.fail_all(LlamacliError("unexpected"))
    assert [str(piece.error) for piece in pieces] == ["unexpected"] and not lane.busy


def test_all_are_told_where_one_that_made_room_can_not_go_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[Any] = []
    with BatchEngine(path, SETTINGS, 4) as engine:
        lane = Lane(engine, Pace(), Metrics())
        for index in range(2):
            lane.waiting.append(Task(index, Job(prompt(9, index), GREEDY, 9), pieces.append))
        lane.admit()
        lane.scheduler._make_room()
        assert len(lane.scheduler.put_back) == 1
        monkeypatch.setattr(lane.scheduler.kept, "begin", lambda running: 1 / 0)
        lane.fail_all(LlamacliError("unexpected"))
    assert [str(piece.error) for piece in pieces] == ["unexpected"] * 2 and not lane.busy


@pytest.mark.parametrize("exact", [False, True])
def test_a_long_prompt_is_read_in_slices_beside_an_answer(path: Path, exact: bool) -> None:
    with BatchEngine(path, SETTINGS, 2) as engine:
        scheduler = Scheduler(engine, Pace(slice=50))
        answering = begin(scheduler, Job(prompt(5), GREEDY, 200, exact=exact))
        scheduler.step()
        long = begin(scheduler, Job(prompt(400, 3), GREEDY, 3), 1)
        for step in range(1, 8):
            before = len(answering.answer.tokens)
            scheduler.step()
            assert long.evaluated == 50 * step and len(answering.answer.tokens) == before + 1


@pytest.mark.parametrize(
    ("gpu", "alone", "one", "tiled", "slowest", "read"),
    [
        (False, 0.02, 0.009, 0.004, 0.31, 61),  # far in a context: few cost the triple
        (False, 0.02, 0.001, 0.001, 0.31, 270),  # at its start, a small model
        (False, 0.02, 0.05, 0.05, 0.85, 16),  # a large model: 64 tokens would take seconds
        (True, 0.004, 0.0001, 0.0001, 0.021, 159),
    ],
)
def test_a_slice_is_what_fits_but_no_less_than_pays(
    gpu: bool, alone: float, one: float, tiled: float, slowest: float, read: int
) -> None:
    """Seconds of a step of three answers alone, and of a token in steps of less than 64 tokens, and
    of more, as a CPU's attention has them."""
    pace, slices, steps = Pace(gpu=gpu), [], []
    for _ in range(40):
        pace.measured(0, 3, alone)
        slices.append(pace.most(3))
        steps.append(alone + slices[-1] * (one if slices[-1] + 3 < 64 else tiled))
        pace.measured(slices[-1], 3, steps[-1])
    assert max(steps[20:]) <= slowest and min(slices[20:]) >= read


def test_requests_that_come_together_read_their_common_start_once(path: Path) -> None:
    metrics = Metrics()
    with BatchEngine(path, SETTINGS, 4) as engine:
        lane = Lane(engine, Pace(), metrics)
        for index in range(4):
            job = Job([*prompt(200), *prompt(8, 10 + index)], GREEDY, 3)
            lane.waiting.append(Task(index, job, lambda piece: None))
        while lane.busy:
            lane.admit()
            lane.turn(lambda: None)
    lines = metrics.text().decode().splitlines()
    assert f"llamacli_prompt_tokens_total {200 + 4 * 8}.0" in lines
    assert f"llamacli_prompt_tokens_cached_total {3 * 200}.0" in lines
    busy = next(line for line in lines if line.startswith("llamacli_n_busy_slots_per_decode "))
    assert 1 < float(busy.split()[1]) < 4  # of the average step, as llama-server counts


def test_the_end_of_a_prompt_is_read_with_what_comes_before_it() -> None:
    """228 tokens beside three answers in two steps, not 93, 93 and 42."""
    pace, left, slices = Pace(), 228, []
    pace.measured(0, 3, 0.02)
    pace.measured(61, 3, 0.02 + 61 * 0.003)
    while left:
        slices.append(min(left, pace.most(3, left)))
        left -= slices[-1]
    assert slices == [93, 135]


def test_answers_wait_for_prompts_as_long_as_64_tokens_take() -> None:
    """On slow machines a prompt takes longer than 1.5 seconds; so do answers one after another."""
    pace = Pace()
    pace.measured(128, 0, 1.0)
    assert pace.together(128, 0.4, True) and not pace.together(256, 0.4, True)
    pace.measured(0, 4, 0.1)
    assert pace.together(256, 3.0, True) and pace.together(600, 1.0, False)
    assert not pace.together(256, 5.0, True) and not pace.together(4000, None, False)


@pytest.mark.parametrize(
    ("seconds", "grown"),
    [(1e9, [[0], [1, 2], [3], [0, 1, 2, 3]]), (0.0, [[0], [0, 1, 2, 3], [0, 1, 2, 3]])],
)
def test_prompts_that_come_together_are_read_one_after_the_other(
    path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, grown: list[list[int]]
) -> None:
    """And answered side by side, if that doesn't take too long; short ones share a batch."""
    monkeypatch.setattr("llamacli.batch.pace.TOGETHER", seconds)
    with BatchEngine(path, SETTINGS, 8) as engine:
        scheduler, answers = Scheduler(engine, Pace()), []
        for index, length in enumerate((70, 40, 70, 40)):
            begin(scheduler, Job(prompt(length, index), GREEDY, 9), index)
        for _ in grown:
            answers.append(sorted(one.index for one, _ in scheduler.step().grown))
    assert answers == grown


def test_the_first_answers_tokens_are_looked_up_as_later_ones(path: Path) -> None:
    """In a program that hasn't numpy yet: llama.cpp's sampler takes ten times as long."""
    program = """if True:
        import sys
        from pathlib import Path
        from llamacli.batch import BatchEngine, Job, prepare
        from llamacli.engine import EngineSettings, SamplingSettings
        assert "numpy" not in sys.modules
        with BatchEngine(Path(sys.argv[1]), EngineSettings(threads=1), 2) as engine:
            running = prepare(engine, 0, Job([3, 4], SamplingSettings(temperature=0), 4))
            import numpy
            assert running.choose(0, numpy.array([0, 2, 1], numpy.float32)) == 1
    """
    subprocess.run([sys.executable, "-c", program, path], check=True)


def test_an_exact_one_answers_as_a_run_does_whatever_is_beside_it(path: Path) -> None:
    """Also where a part of it was read before, in another shape."""
    settings = EngineSettings(threads=1, batch=64, ubatch=64)
    asked, alone = prompt(200, 5), []
    with Engine(path, settings) as single:
        single.prefill(asked)
        for _ in range(20):
            logits = single.logits()
            alone.append(token_logprob(logits, int(logits.argmax()), 3))
            single.decode(alone[-1].token)
    with BatchEngine(path, settings, 4) as engine:
        scheduler, cached = Scheduler(engine), []
        for seed in range(3):
            begin(scheduler, Job(prompt(70 + seed, seed), GREEDY, 400), seed)
        finish(scheduler, begin(scheduler, Job(asked[:150], GREEDY, 1), 4))
        for index in range(2):
            exact = begin(scheduler, Job(asked, GREEDY, 20, logprobs=3, exact=True), 10 + index)
            cached.append(exact.cached)
            finish(scheduler, exact)
            for ours, expected in zip(exact.logprobs, alone, strict=False):
                assert ours.token == expected.token
                assert ours.logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert cached == [0, 0]


def test_nothing_below_an_exact_ones_cells_is_freed_as_it_goes_on(scheduler: Scheduler) -> None:
    """Its next ones would take their place, out of order."""
    first = begin(scheduler, Job(prompt(40), GREEDY, 30, exact=True, chat="a"))
    scheduler.step()
    asked = prompt(50, 1)
    second = begin(scheduler, Job(asked, GREEDY, 4, exact=True, chat="b"), 1)
    longer = [*asked, *finish(scheduler, second), *prompt(9, 2)]
    finish(scheduler, first)
    again = begin(scheduler, Job(longer, GREEDY, 2, exact=True, chat="b"), 2)
    assert again.sequence == second.sequence and again.cached > 50
    assert list(scheduler.kept.left) == [first.sequence]


def test_probabilities_are_the_models_own(scheduler: Scheduler) -> None:
    hot = SamplingSettings(temperature=2.0, seed=3)
    running = begin(scheduler, Job(prompt(9), hot, 6, logprobs=5))
    finish(scheduler, running)
    assert [one.token for one in running.logprobs] == running.answer.tokens
    for one in running.logprobs:
        assert len(one.top) == 5 and one.logprob <= one.top[0][1] <= 0
        assert sorted((p for _, p in one.top), reverse=True) == [p for _, p in one.top]


def test_an_exact_chat_goes_on_from_its_own_turns_alone(path: Path) -> None:
    settings = EngineSettings(threads=1, batch=64, ubatch=64)
    with BatchEngine(path, settings, 4) as engine:
        scheduler = Scheduler(engine)
        first = Job(prompt(90), GREEDY, 6, exact=True, chat="a")
        finish(scheduler, begin(scheduler, Job(prompt(90), GREEDY, 6)))  # another's, the same
        answer = finish(scheduler, begin(scheduler, first))
        longer = [*prompt(90), *answer, *prompt(70, 1)]
        for chat, cached in (("b", 0), (None, 0), ("a", 90 + len(answer) - 1)):
            job = Job(longer, GREEDY, 2, exact=True, chat=chat)
            running = begin(scheduler, job)
            assert running.cached == cached
            finish(scheduler, running)
        finish(scheduler, begin(scheduler, Job(longer, GREEDY, 2)))  # takes none of the chat's
        again = begin(scheduler, Job(longer, GREEDY, 2, exact=True, chat="a"))
        assert again.cached == len(longer) - 1
        finish(scheduler, again)
        back = begin(scheduler, Job([*prompt(90), *prompt(9, 2)], GREEDY, 2, exact=True, chat="a"))
        assert back.cached == 90
        finish(scheduler, back)
        assert [left.chat for left in scheduler.kept.left.values()].count("a") == 1
