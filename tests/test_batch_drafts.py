"""Drafts beside other answers: the same answers with fewer steps, and only what pays for all."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convert import convert
from llamacli.answer import Result, generate
from llamacli.batch import BatchEngine, Job, Pace, Scheduler, answer_all, prepare, result
from llamacli.batch.aside import Left
from llamacli.batch.proposals import SharedDraft, Wanted
from llamacli.engine import Engine, EngineSettings, SamplingSettings
from llamacli.errors import UsageError
from llamacli.prompt import encode_turns
from llamacli.shape import read_schema
from llamacli.speculate import (
    Costs,
    Drafting,
    DraftingEngine,
    DraftModel,
    Drafts,
)
from llamacli.speculate.costs import ON_CPU
from tests.standins.tiny import write_model
from tests.test_cli import llamacli

DEMO = Path(__file__).resolve().parents[1] / "llamacli" / "demo"
GREEDY = SamplingSettings(temperature=0)
LOOPING = SamplingSettings(temperature=0, frequency_penalty=-2)  # says what it said
FREE = Costs({1: 1.0, 64: 1.0})  # checking many costs what one does
SETTINGS = EngineSettings(context=1024, threads=1, device="cpu")
TIE = 0.05  # of logits; batches of several shapes differ by less
TEXT = "def area(width, height):\n    return width * height\n"
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("drafts") / "demo.gguf"
    convert(DEMO, target, "Q8_0")
    return target


@pytest.fixture(scope="module")
def plain(path: Path) -> Iterator[BatchEngine]:
    with BatchEngine(path, SETTINGS, 3) as engine:
        yield engine


@pytest.fixture(scope="module")
def drafting(path: Path) -> Iterator[BatchEngine]:
    """One whose drafts cost nothing, copied or by the model itself."""
    with BatchEngine(path, SETTINGS, 3, Drafting(path, FREE)) as engine:
        yield engine


@pytest.fixture(autouse=True)
def _cheap_and_empty(drafting: BatchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its own draft a model would never pay."""
    drafting.library.llama_memory_clear(drafting.memory, False)
    monkeypatch.setattr("llamacli.batch.proposals.drafting_cost", lambda *_: 0.01)


def asked(engine: Engine, texts: list[str]) -> list[list[int]]:
    return [encode_turns(engine, [{"role": "user", "content": text}]) for text in texts]


def jobs(engine: Engine, **options: Any) -> list[Job]:
    texts = ["What is GGUF?", f"Repeat this:\n{TEXT}{TEXT}", "Repeat: one two three one two three"]
    sampling = options.pop("sampling", GREEDY)
    return [
        Job(tokens, sampling, **{"max_tokens": 60, **options}) for tokens in asked(engine, texts)
    ]


def answered(engine: BatchEngine, given: list[Job]) -> list[Result]:
    found = dict(answer_all(engine, iter(given)))
    results = [found[i] for i in range(len(given))]
    assert all(isinstance(one, Result) for one in results), results
    return results  # type: ignore[return-value]


def same_up_to_ties(engine: BatchEngine, job: Job, one: Result, other: Result) -> None:
    """Where two answers part, the model's logits for both tokens are all but the same."""
    for at, (left, right) in enumerate(zip(one.tokens, other.tokens, strict=False)):
        if left != right:
            running = prepare(
                engine, 0, Job([*job.prompt, *one.tokens[:at]], GREEDY, 1, logprobs=20)
            )
            scheduler = Scheduler(engine)
            scheduler.start(running)
            scheduler.step()
            found = dict(running.logprobs[0].top)
            assert abs(found[left] - found[right]) < TIE
            return
    assert one.tokens == other.tokens and one.finish_reason == other.finish_reason


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_tokens": 5},
        {"stop": ("width", "zebra")},
        {"sampling": SamplingSettings(temperature=0, repeat_penalty=1.1)},
        {"sampling": LOOPING},
        {"sampling": SamplingSettings(temperature=0.8, seed=7)},
        {"sampling": SamplingSettings(temperature=1.5, top_k=0, seed=8)},
        {"shape": read_schema(json.dumps(SCHEMA)), "max_tokens": 40},
    ],
    ids=["long", "short", "stops", "penalty", "loop", "seed", "hot", "schema"],
)
@pytest.mark.parametrize("drafts", ["copied", "by a model"])
def test_answers_are_those_without_drafts(
    plain: BatchEngine,
    drafting: BatchEngine,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    drafts: str,
) -> None:
    if drafts == "copied":
        monkeypatch.setattr(drafting, "draft", None)
    given = jobs(plain, **options)
    without, drafted = answered(plain, given), answered(drafting, given)
    for job, one, other in zip(given, without, drafted, strict=True):
        same_up_to_ties(plain, job, one, other)
        assert other.drafted.accepted <= other.drafted.tokens
    if options.get("sampling") == LOOPING:
        assert any(one.drafted.accepted > 0 for one in drafted)
    if drafts == "by a model" and options == {}:
        assert all(2 * one.drafted.accepted > one.answer_tokens for one in drafted)


def test_many_greedy_ones_are_each_given_their_own(path: Path, plain: BatchEngine) -> None:
    """Their likeliest tokens are looked for in one go where none has a draft."""
    given = [Job(job.prompt[i:], GREEDY, 24) for i in range(3) for job in jobs(plain)]
    without = answered(plain, given)
    with BatchEngine(path, SETTINGS, 9, Drafting(path, FREE)) as engine:
        drafted = answered(engine, given)
    assert sum(one.drafted.accepted for one in drafted) > 0
    for job, one, other in zip(given, without, drafted, strict=True):
        same_up_to_ties(plain, job, one, other)


def test_probabilities_come_with_drafted_tokens(plain: BatchEngine, drafting: BatchEngine) -> None:
    found = []
    for engine in (plain, drafting):
        scheduler = Scheduler(engine, Pace())
        running = prepare(engine, 0, jobs(engine, logprobs=2)[0])
        scheduler.start(running)
        while scheduler.running:
            scheduler.step()
        assert [one.token for one in running.logprobs] == running.answer.tokens
        found.append(running.logprobs)
    for one, other in zip(*found, strict=True):
        assert one.token == other.token and one.logprob == pytest.approx(other.logprob, abs=TIE)


def test_a_step_gives_several_tokens_and_leaves_no_draft_in_the_cache(
    drafting: BatchEngine,
) -> None:
    scheduler = Scheduler(drafting)
    first, second = (prepare(drafting, i, job) for i, job in enumerate(jobs(drafting)[:2]))
    scheduler.start(first)
    scheduler.start(second)
    steps = 0
    while scheduler.running:
        step = scheduler.step()
        steps += 1
        for running in scheduler.running:
            last = drafting.library.llama_memory_seq_pos_max(drafting.memory, running.sequence)
            assert last == running.evaluated - 1 and running.left == 1
        assert len(step.grown) >= len(step.finished)
    assert steps < max(len(one.answer.tokens) for one in (first, second))
    for number, left in scheduler.kept.left.items():  # of finished ones, too
        last = drafting.library.llama_memory_seq_pos_max(drafting.memory, number)
        assert last == len(left.tokens) - 1
    assert result(first).drafted.accepted > 0


def test_no_draft_where_a_prompt_is_read(drafting: BatchEngine) -> None:
    scheduler = Scheduler(drafting, Pace(slice=16))
    given = jobs(drafting)
    scheduler.start(prepare(drafting, 0, given[0]))
    scheduler.step()
    scheduler.step()
    scheduler.start(prepare(drafting, 1, given[1]))
    step = scheduler.step()
    assert len([one for one, _ in step.grown if one.index == 0]) == 1 and step.read == 16
    while scheduler.running:
        scheduler.step()


def test_an_exact_one_has_the_drafts_that_it_would_have_alone(path: Path) -> None:
    """So it is evaluated in the same shapes, whatever is beside it."""
    drafting = Drafting(path, FREE)
    with DraftingEngine(path, SETTINGS, drafting) as alone:
        assert alone.speculation is not None and alone.speculation.model is not None
        alone.speculation.model.cost = 0.01
        expected = []
        for job in jobs(alone):
            alone.keep(0)
            chunks = generate(alone, job.prompt, GREEDY, max_tokens=60)
            expected += [chunk.result for chunk in chunks if chunk.result is not None]
    with BatchEngine(path, SETTINGS, 4, drafting) as engine:
        given = [replace(job, exact=True) for job in jobs(engine)]
        found = answered(engine, [*given, jobs(engine)[1]])  # the last one is beside them
    for one, other in zip(expected, found, strict=False):
        assert other.tokens == one.tokens and other.drafted == one.drafted
        assert one.drafted.accepted > 0


def test_a_full_cache_is_no_place_for_drafts(path: Path) -> None:
    """Answers as long as the context takes, beside each other: none fails for its drafts."""
    settings = EngineSettings(context=96, threads=1, device="cpu")
    with BatchEngine(path, settings, 2, Drafting(path, FREE)) as engine:
        given = [Job(job.prompt, GREEDY) for job in jobs(engine)[:1] * 4]
        for one in answered(engine, given):
            assert one.prompt_tokens + one.answer_tokens <= engine.context_size + 1


def test_costs_are_learned_once_beside_others(path: Path) -> None:
    found: list[Costs] = []
    with BatchEngine(path, SETTINGS, 2, Drafting(learned=found.append)) as engine:
        assert engine.speculation is not None and not engine.speculation.is_known
        prompt = [5, 9, 14, 30, 2, 77] * 20
        answers = answered(engine, [Job(prompt, GREEDY, 30), Job(prompt[1:], GREEDY, 30)])
        assert len(answers) == 2 and len(found) <= 1
        scheduler = Scheduler(engine)
        for number in range(18):  # all sequences hold something
            scheduler.kept.left[number] = Left([number], (), None)
        costs = scheduler._measure()
        assert costs.known[1] == 1 and len(scheduler.kept.left) == 17
        library, memory = engine.library, engine.memory
        assert library.llama_memory_seq_pos_max(memory, 0) == -1


def test_a_draft_of_another_vocabulary_is_refused(path: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "tiny.gguf")
    with pytest.raises(UsageError, match="can't draft for"):
        BatchEngine(path, SETTINGS, 2, Drafting(other))


def test_a_draft_beside_others_costs_what_it_adds() -> None:
    """Eight answers in a batch of sixteen rows that cost little more than eight."""
    costs = Costs(ON_CPU)
    assert costs.in_batch(1, 1).of(5) == costs.of(5)
    eight = costs.in_batch(8, 8)
    assert eight.of(1) == 1
    assert eight.of(9) == pytest.approx(1 + (ON_CPU[16] - ON_CPU[8]) * 8 / ON_CPU[8])
    assert costs.rows_for(2 * costs.of(2)) == 5  # 3.15 of at most 3.2
    drafts = Drafts()
    drafts.lookup.extend([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17] * 3)
    assert 0 < len(drafts.copied(20, eight)) <= 7


def test_one_waits_no_more_than_twice_as_long_for_anothers_draft(drafting: BatchEngine) -> None:
    assert drafting.speculation is not None
    rows = []
    known, drafting.speculation.costs = drafting.speculation.costs, Costs(ON_CPU)
    try:
        for pace in (None, Pace()):
            scheduler = Scheduler(drafting, pace)
            for i, prompt in enumerate(([5, 9, 14, 30] * 30, jobs(drafting)[0].prompt)):
                scheduler.start(prepare(drafting, i, Job(prompt, GREEDY, 50)))
            while any(running.prefilled is None for running in scheduler.running):
                scheduler.step()
            one, _ = scheduler.running
            assert one.drafts is not None
            one.drafts.lookup.extend([5, 9, 14, 30] * 8)
            one.drafts.budget.balance = 16.0
            scheduler.proposals.propose(scheduler.running, drafting.speculation)
            rows.append(len(one.proposed))
            for running in list(scheduler.running):
                scheduler.leave(running)
            drafting.library.llama_memory_clear(drafting.memory, False)
    finally:
        drafting.speculation.costs = known
    assert rows[0] > rows[1] > 0 and 2 + rows[1] <= 5


# The model that drafts


def test_it_drafts_for_each_what_it_drafts_for_one(path: Path) -> None:
    with BatchEngine(path, SETTINGS, 3) as small:
        prompts = [job.prompt for job in jobs(small)]
        shared = SharedDraft(small, 0.1)
        wanted = [Wanted(i, prompt, 6 + i) for i, prompt in enumerate(prompts)]
        shared.draft(wanted, {0, 1, 2}, None)
        with Engine(path, SETTINGS) as engine:
            alone = DraftModel(engine, 0.1)
            for one in wanted:
                expected = alone.draft(one.tokens, one.most)
                assert one.drafted == expected or expected[:2] == (one.drafted or [])[:2]
        longer = [*prompts[0], *(wanted[0].drafted or [])[:3], 99]
        again = Wanted(0, longer, 4)
        shared.draft([again], {0, 1, 2}, None)
        assert shared.held[0][: len(longer)] == longer and again.drafted is not None


def test_a_long_text_is_read_over_several_steps(path: Path) -> None:
    with BatchEngine(path, SETTINGS, 2) as small:
        shared, text = SharedDraft(small, 0.1), jobs(small)[1].prompt
        for step in range(1, 20):
            wanted = Wanted(1, text, 4)
            shared.draft([wanted], {1}, 10)
            if wanted.drafted is not None:
                break
            assert len(shared.held[1]) == 10 * step
        assert wanted.drafted is not None and step == -(-len(text) // 10)
        shared.draft([Wanted(0, [*text, 5], 2)], {0, 1}, 0)
        assert shared.held[0] == list(text)  # what the other has read already


def test_what_finished_ones_left_makes_room(path: Path) -> None:
    settings = EngineSettings(context=200, threads=1, device="cpu")
    with BatchEngine(path, settings, 1) as small:
        shared = SharedDraft(small, 0.1)
        for number in range(4):
            wanted = Wanted(number, [5 + number, *range(20, 170)], 5)
            shared.draft([wanted], {number}, None)
            assert wanted.drafted is not None
        assert 3 in shared.held and 0 not in shared.held
        shared.draft([Wanted(3, [5] * 300, 5)], {3}, None)  # beyond its context: no draft


def test_the_program_drafts_side_by_side(path: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("What is GGUF?\nhello\n")
    options = ["batch", lines, "-m", path, "--temp", "0", "-n", "30"]
    plain = llamacli(*options, "--speculate", "off")
    drafted = llamacli(*options, "--draft", path)
    texts = [
        [json.loads(row)["text"] for row in one.stdout.splitlines()] for one in (plain, drafted)
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 2
