"""Speculation: the same answers with fewer evaluations, and only where they pay."""

import json
import math
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import convert
from llamacli.answer import Result, generate, interrupts
from llamacli.batch import BatchEngine
from llamacli.engine import Engine, EngineSettings, SamplingSettings
from llamacli.engine.fit import Fitting
from llamacli.errors import DoesNotFitError, UsageError
from llamacli.gguf import check_llama, read_gguf
from llamacli.machine import FreeMemory, this_processor
from llamacli.prompt import encode_raw, encode_turns
from llamacli.shape import constrained, read_schema
from llamacli.speculate import (
    MOST_ROWS,
    Costs,
    Drafting,
    DraftingEngine,
    DraftModel,
    Drafts,
    Lookahead,
    Speculation,
)
from llamacli.speculate.costs import MOST_REGAINED, ON_CPU, ON_GPU, Budget, Kind, learn_costs
from llamacli.speculate.drafts import Lookup, check_same_tokens
from tests.standins import smollm2
from tests.standins.sparse import Shape, write_sparse
from tests.standins.tiny import write_model
from tests.test_cli import llamacli

DEMO = Path(__file__).resolve().parents[1] / "llamacli" / "demo"
GREEDY = SamplingSettings(temperature=0)
FREE = Costs({1: 1.0, 64: 1.0})  # checking many costs what one does: as much as can be is drafted
TIE = 0.05  # of logits; batches of several shapes differ by less
SETTINGS = EngineSettings(context=1024, threads=1, device="cpu")
TEXT = """def area(width, height):
    return width * height

def volume(width, height, depth):
    return area(width, height) * depth
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("speculation") / "demo.gguf"
    convert(DEMO, target, "Q8_0")
    return target


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[DraftingEngine]:
    with DraftingEngine(path, SETTINGS) as made:
        yield made


def answered(
    engine: DraftingEngine,
    prompt: list[int],
    sampling: Any = GREEDY,
    *,
    speculation: Speculation | None = None,
    **options: Any,
) -> Result:
    engine.keep(0)
    engine.speculation = speculation
    result = [chunk.result for chunk in generate(engine, prompt, sampling, **options)][-1]
    assert result is not None
    return result


def question(engine: DraftingEngine, text: str = f"Repeat this:\n{TEXT}\n{TEXT}") -> list[int]:
    return encode_turns(engine, [{"role": "user", "content": text}])


def same_up_to_ties(
    engine: DraftingEngine, prompt: list[int], plain: Result, other: Result
) -> None:
    """Where two answers part, the model's logits for both tokens are all but the same."""
    for at, (one, two) in enumerate(zip(plain.tokens, other.tokens, strict=False)):
        if one != two:
            engine.prefill([*prompt, *plain.tokens[:at]])
            logits = engine.logits()
            assert abs(float(logits[one] - logits[two])) < TIE
            return
    assert plain.tokens == other.tokens and plain.finish_reason == other.finish_reason


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 200},
        {"max_tokens": 7},
        {"max_tokens": 200, "stop": ("depth", "zebra")},
        {"max_tokens": 200, "sampling": SamplingSettings(temperature=0, repeat_penalty=1.1)},
        {"max_tokens": 100, "sampling": SamplingSettings(temperature=0.8, seed=7)},
        {"max_tokens": 100, "sampling": SamplingSettings(temperature=1.5, top_k=0, seed=8)},
    ],
    ids=["long", "short", "stops", "penalty", "seed", "hot"],
)
@pytest.mark.parametrize("drafts", ["copied", "its own model", "nothing likely"])
def test_the_answer_is_that_of_plain_decoding(
    engine: DraftingEngine, path: Path, options: dict[str, Any], drafts: str
) -> None:
    prompt = question(engine)
    plain = answered(engine, prompt, **options)
    with Engine(path, SETTINGS) as small:
        model = None if drafts == "copied" else DraftModel(small, cost=0.01)
        if drafts == "nothing likely":
            small.prefill([1, 2, 3])
        other = answered(engine, prompt, speculation=Speculation(FREE, model), **options)
    same_up_to_ties(engine, prompt, plain, other)
    assert other.drafted.accepted <= other.drafted.tokens
    if drafts == "its own model" and options["max_tokens"] > 100:
        assert other.drafted.accepted > 0 and other.drafted.evaluations < len(other.tokens)


def test_what_is_in_the_cache_is_what_was_said(engine: DraftingEngine) -> None:
    """Drafts that came to nothing are gone, so that the next turn reads only what is new."""
    prompt = question(engine)
    speculation = Speculation(FREE)
    result = answered(engine, prompt, max_tokens=40, speculation=speculation)
    said = [*prompt, *result.tokens]
    assert engine.tokens == said[: len(engine.tokens)] and len(engine.tokens) >= len(said) - 1
    chunks = generate(engine, prompt, GREEDY, max_tokens=40)
    next(chunks)
    chunks.close()  # left in its midst
    assert engine.tokens == said[: len(engine.tokens)]


def test_a_text_that_repeats_takes_few_evaluations(engine: DraftingEngine) -> None:
    """A model that says the same again and again: copying foresees it."""
    prompt = [5, 9, 14] * 40
    plain = answered(engine, prompt, max_tokens=120)
    copied = answered(engine, prompt, max_tokens=120, speculation=Speculation(FREE))
    same_up_to_ties(engine, prompt, plain, copied)
    if len(set(plain.tokens[-30:])) <= 10 and len(plain.tokens) == 120:  # it does repeat
        assert copied.drafted.evaluations < 60 and copied.drafted.accepted > 60


class Guess(DraftModel):
    """Drafts the likeliest token, or the one after it, however unlikely it is."""

    place = -1

    def draft(self, tokens: Any, most: int) -> list[int]:
        self.engine.prefill(tokens)
        return [int(np.argsort(self.engine.logits())[self.place])]


@pytest.mark.parametrize("place", [-1, -2])
def test_the_distribution_is_the_models(tmp_path: Path, place: int) -> None:
    """Chi-square of answers of two tokens over a small vocabulary, the second one drafted."""
    path = write_model(tmp_path / "tiny.gguf")
    sampling = SamplingSettings(temperature=1.0, top_k=4, top_p=1.0)
    prompt, draws = [20, 21, 22, 23], 800
    settings = EngineSettings(context=256, threads=1, device="cpu")
    with DraftingEngine(path, settings) as engine, Engine(path, settings) as own:
        model = Guess(own, cost=0.0)
        model.place = place
        counts = []
        for speculation in (None, Speculation(FREE, model)):
            begun: Counter[tuple[int, ...]] = Counter()
            drafted = accepted = 0
            for draw in range(draws):
                seed = draw + (0 if speculation is None else draws)
                seeded = replace(sampling, seed=seed)
                result = answered(engine, prompt, seeded, max_tokens=3, speculation=speculation)
                drafted += result.drafted.tokens
                accepted += result.drafted.accepted
                begun[result.tokens[:2]] += 1
            counts.append(begun)
    assert drafted >= draws and 0 < accepted < drafted
    plain, other = counts
    answers = [one for one in plain | other if plain[one] + other[one] >= 10]
    square = sum((plain[one] - other[one]) ** 2 / (plain[one] + other[one]) for one in answers)
    freedom = len(answers) - 1
    # The 99.99% point by Wilson and Hilferty; the seeds are fixed, so it never wavers.
    limit = freedom * (1 - 2 / (9 * freedom) + 3.719 * math.sqrt(2 / (9 * freedom))) ** 3
    assert freedom > 6 and square < limit


def test_a_seed_repeats(engine: DraftingEngine) -> None:
    prompt = question(engine)
    sampling = SamplingSettings(temperature=0.9, seed=3)
    speculation = Speculation(Costs(ON_CPU))
    first, second = (
        answered(engine, prompt, sampling, max_tokens=80, speculation=speculation) for _ in range(2)
    )
    assert first.tokens == second.tokens and first.drafted == second.drafted


def test_a_model_drafts_for_itself(path: Path, engine: DraftingEngine, tmp_path: Path) -> None:
    """As its own draft, and as its own smallest quantization."""
    prompt = question(engine, "What is GGUF?")
    plain = answered(engine, prompt)
    small = tmp_path / "small.gguf"
    convert(DEMO, small, "Q4_K_M")
    for draft in (path, small):
        with DraftingEngine(path, SETTINGS, Drafting(draft, FREE)) as drafted:
            assert drafted.speculation is not None and drafted.speculation.model is not None
            drafted.speculation.model.cost = 0.01
            other = answered(drafted, prompt, speculation=drafted.speculation)
        same_up_to_ties(engine, prompt, plain, other)
        assert 3 * other.drafted.evaluations < len(other.tokens)


def test_a_draft_counts_in_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are taken, though the pages of its file look free."""
    sparse = write_sparse(tmp_path / "sparse.gguf", Shape(blocks=2))
    file = read_gguf(sparse)
    settings = EngineSettings(context=256, threads=1, device="cpu", repack=False)
    plenty = Fitting(file, check_llama(file), this_processor(), (), FreeMemory(1 << 50))
    need = plenty.need(replace(settings, gpu_layers=0, outputs=MOST_ROWS)).host
    free = FreeMemory(need.total + need.weights // 2)
    monkeypatch.setattr("llamacli.machine.free_memory", lambda: free)
    DraftingEngine(sparse, settings).close()
    with pytest.raises(DoesNotFitError):
        DraftingEngine(sparse, settings, Drafting(sparse))


def test_costs_are_learned_before_the_first_draft(path: Path) -> None:
    """Once, and only where a draft is thought of; what is in the cache stays."""
    learned: list[Costs] = []
    with DraftingEngine(path, SETTINGS, Drafting(learned=learned.append)) as engine:
        speculation = engine.speculation
        assert speculation is not None and not speculation.is_known
        answered(engine, [5, 900, 14], max_tokens=1, speculation=speculation)
        assert not learned
        prompt = question(engine)
        plain = answered(engine, prompt, max_tokens=60)
        other = answered(engine, [*prompt, *prompt], max_tokens=60, speculation=speculation)
        assert other.prompt_tokens == 2 * len(prompt)
        drafted = answered(engine, prompt, max_tokens=60, speculation=speculation)
        same_up_to_ties(engine, prompt, plain, drafted)
        assert len(learned) <= 1
        costs = learn_costs(engine)
        assert engine.tokens == [*prompt, *drafted.tokens][: len(engine.tokens)]
    assert costs.known[1] == 1 and list(costs.known.values()) == sorted(costs.known.values())


def test_a_batch_has_room_for_a_draft_whatever_its_size(path: Path) -> None:
    """llama.cpp ends the process where it gets more at once than it was told."""
    small = replace(SETTINGS, context=128, batch=8, ubatch=4)
    with DraftingEngine(path, small) as engine:
        engine.decode_rows([5] * MOST_ROWS)
    with BatchEngine(path, small, 2, Drafting(costs=FREE)) as side_by_side:
        assert side_by_side.rows >= MOST_ROWS


def test_a_signal_while_a_model_reads_ends_its_draft(path: Path) -> None:
    """What it has read isn't whole then, and there are no logits."""
    drafted: list[list[int]] = []
    with Engine(path, replace(SETTINGS, ubatch=32)) as small:
        decode = small._decode

        def struck(context: Any, batch: Any) -> int:
            signal.raise_signal(signal.SIGINT)
            return decode(context, batch)

        small._decode = struck
        with pytest.raises(KeyboardInterrupt), interrupts():
            drafted.append(DraftModel(small, 0.01).draft(list(range(3, 203)), 8))
    assert drafted == [[]]


def test_an_answer_goes_on_without_a_draft_whose_cache_can_not_grow(
    engine: DraftingEngine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And asks it no more."""

    def refuse(*_: Any) -> None:
        raise DoesNotFitError("a context of 1024 tokens can't be made")

    prompt = question(engine, "What is GGUF?")
    plain = answered(engine, prompt, max_tokens=60)
    monkeypatch.setattr("llamacli.engine.engine.FIRST_ROOM", len(prompt) + 10)
    with Engine(path, SETTINGS) as small:
        speculation = Speculation(FREE, DraftModel(small, cost=0.01))
        monkeypatch.setattr(small, "_change_context", refuse)
        drafted = answered(engine, prompt, max_tokens=60, speculation=speculation)
    same_up_to_ties(engine, prompt, plain, drafted)
    assert speculation.model is None


def test_what_an_answer_cannot_have_is_not_drafted(engine: DraftingEngine) -> None:
    """As a grammar says it, before it is evaluated."""
    prompt = [5, 9, 14, 30, 2, 77] * 20
    engine.keep(0)
    engine.prefill(prompt)
    for most, drafted in ((2, 2), (0, 0)):
        ahead = Lookahead(engine, prompt, Speculation(FREE), lambda _, most=most: most)
        ahead.advance(5, 20)
        assert ahead.waiting == [9, 14][:drafted]
        ahead.finish()
        engine.keep(len(prompt))


def test_costs_that_cannot_be_are_not_learned(
    engine: DraftingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that says that one token takes as long as sixteen: the machine did something else."""
    ticks = iter(range(10_000))
    monkeypatch.setattr("llamacli.speculate.costs.perf_counter", lambda: float(next(ticks)))
    engine.keep(0)
    engine.prefill([5, 9, 14])
    learned = learn_costs(engine)
    least = Costs(ON_GPU)
    assert learned.known == {size: round(least.of(size), 2) for size in learned.known}
    assert engine.tokens == [5, 9, 14]


def test_a_promising_text_has_costs_learned(path: Path) -> None:
    learned: list[Costs] = []
    with DraftingEngine(path, SETTINGS, Drafting(learned=learned.append)) as engine:
        prompt = [5, 9, 14, 30, 2, 77] * 20
        plain = answered(engine, prompt, max_tokens=40)
        engine.keep(0)
        ahead = Lookahead(engine, prompt, Speculation(FREE, None, False, learned.append))
        engine.prefill(prompt)
        ahead.advance(5, 20)  # what followed before
        assert len(learned) == 1 and engine.speculation is None
        ahead.finish()
        assert engine.tokens == [*prompt, 5] and plain.answer_tokens


@pytest.mark.parametrize("drafts", ["copied", "its own model"])
def test_a_shape_is_kept_with_drafts(engine: DraftingEngine, path: Path, drafts: str) -> None:
    """The drafts know nothing of it: a token that it forbids is never drawn."""
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "sizes": {"type": "array", "maxItems": 4}},
        "required": ["name", "sizes"],
    }
    shape = read_schema(json.dumps(schema))
    prompt = question(engine)
    texts = []
    with Engine(path, SETTINGS) as small:
        model = DraftModel(small, cost=0.01) if drafts == "its own model" else None
        for speculation in (None, Speculation(FREE, model)):
            constraint = constrained(engine.vocabulary, shape, 120)
            result = answered(
                engine, prompt, max_tokens=120, constraint=constraint, speculation=speculation
            )
            assert set(json.loads(result.text)) == {"name", "sizes"}
            texts.append(result)
    same_up_to_ties(engine, prompt, *texts)


def test_the_program_drafts_and_tells(path: Path, tmp_path: Path) -> None:
    options = ["run", "What is GGUF?", "-m", path, "--temp", "0"]
    plain = llamacli(*options, "--speculate", "off")
    drafted = llamacli(*options, "--draft", path, "-v")
    assert drafted.stdout == plain.stdout and "seed" in drafted.stderr
    told = llamacli(*options, "--draft", "auto", check=2).stderr
    assert "models.toml names no draft for demo.gguf" in told
    told = llamacli(*options, "--draft", path, "--speculate", "off", check=2).stderr
    assert "--draft goes with --speculate auto" in told
    other = write_model(tmp_path / "tiny.gguf")
    told = llamacli(*options, "--draft", other, check=2).stderr
    assert "can't draft for demo.gguf" in told and len(told.splitlines()) == 1


def test_other_vocabularies_are_refused_by_the_first_token_that_differs(tmp_path: Path) -> None:
    one = read_gguf(write_model(tmp_path / "one.gguf"))
    check_same_tokens(one, one)

    def renamed(writer: Any) -> None:
        tokens = writer.kv_data[0].pop("tokenizer.ggml.tokens").value
        writer.add_token_list([*tokens[:300], "zzz", *tokens[301:]])

    two = read_gguf(write_model(tmp_path / "two.gguf", change=renamed))
    with pytest.raises(
        UsageError, match=r"two\.gguf can't draft for one\.gguf: token 300 is b'zzz'"
    ):
        check_same_tokens(two, one)


# A trained model, whose drafts are accepted.


@pytest.fixture(scope="module")
def trained() -> Iterator[DraftingEngine]:
    try:
        path = smollm2.folder().parent / smollm2.ORIGINAL
    except smollm2.CannotBeHadError as error:
        pytest.skip(str(error))
    with DraftingEngine(path, SETTINGS) as made:
        yield made


@pytest.mark.parametrize(
    "text", ["What is the capital of Italy?", f"Repeat this code:\n{TEXT}", "Write a short poem."]
)
def test_trained_weights_say_the_same_with_drafts(trained: DraftingEngine, text: str) -> None:
    prompt = encode_turns(trained, [{"role": "user", "content": text}])
    plain = answered(trained, prompt, max_tokens=50)
    drafted = answered(trained, prompt, max_tokens=50, speculation=Speculation(FREE))
    same_up_to_ties(trained, prompt, plain, drafted)
    assert drafted.drafted.tokens > 0


def test_copied_code_takes_a_fraction_of_the_evaluations(trained: DraftingEngine) -> None:
    prompt = encode_raw(trained.vocabulary, TEXT * 3 + TEXT[:60])
    result = answered(trained, prompt, max_tokens=60, speculation=Speculation(FREE))
    drafted = result.drafted
    evaluations = result.answer_tokens - drafted.accepted
    assert drafted.accepted > 30 and 2 * evaluations < result.answer_tokens


# What was the same before is found, and drafts stay within their budget.


def test_look_up_takes_the_longest_and_latest_match() -> None:
    lookup = Lookup()
    lookup.extend([1, 2, 3, 4, 50, 9, 2, 3, 4, 60, 7, 1, 2, 3, 4])
    assert lookup.draft(2) == ([50, 9], 4)  # longer than the later one
    lookup.extend([70, 2, 3, 4])
    assert lookup.draft(1) == ([70], 3)  # the latest of two alike
    assert Lookup().draft(5) == ([], 0)


@pytest.mark.parametrize("new", [[77], [77, 78, 79]], ids=["another token", "three for one"])
def test_a_copy_goes_on_beyond_a_change(new: list[int]) -> None:
    """At once where one token takes another's place, after one equal token where more do."""
    text = list(range(100, 140))
    lookup = Lookup()
    lookup.extend([*text, 1, 2, *text[:12]])
    assert lookup.draft(3) == (text[12:15], 12)
    lookup.extend(new)
    if len(new) == 1:
        assert lookup.draft(3) == (text[13:16], 0)
    lookup.extend(text[13:14])
    assert lookup.draft(3) == (text[14:17], 1)
    lookup.extend([7, 8, 9, 7, 8, 6])
    assert lookup.draft(3) == ([], 0)


def test_a_copy_goes_on_where_it_is_and_not_at_a_longer_match() -> None:
    text = list(range(100, 140))
    lookup = Lookup()
    lookup.extend([*text, 1, 2, 113, 114, 115, 116, 9, 8, *text[:12]])
    assert lookup.draft(2) == (text[12:14], 12)
    lookup.extend([116, *text[13:16]])
    assert lookup.draft(2) == (text[16:18], 3)


def test_look_up_goes_on_with_what_repeats() -> None:
    lookup = Lookup()
    lookup.extend([7, 8, 9, 7, 8, 9, 7])
    drafted, same = lookup.draft(8)
    assert drafted == [8, 9, 7, 8, 9, 7, 8, 9] and same == 4


def simulated(costs: Costs, truth: float, tokens: int = 4000, seed: int = 0) -> float:
    """The cost of that many tokens where drafts are right that often, against one each."""
    rng, budget = np.random.default_rng(seed), Budget()
    kinds, made, cost = [Kind(0.93)] * (MOST_ROWS - 1), 0, 0.0
    while made < tokens:
        size = budget.length(kinds, costs)
        right = 0
        while right < size and rng.random() < truth:
            right += 1
        if size:
            budget.saw(kinds[:size], right, costs.of(size + 1))
        else:
            budget.saw_plain()
            budget.saw_foretold(kinds[0], bool(rng.random() < truth))
        made += right + 1
        cost += costs.of(size + 1)
    return cost / made


@pytest.mark.parametrize("gpu", [False, True])
def test_drafts_that_are_wrong_cost_a_fiftieth_at_most(gpu: bool) -> None:
    costs = Costs(ON_GPU if gpu else ON_CPU)
    for truth in (0.0, 0.1, 0.3, 0.5, 0.7):
        assert simulated(costs, truth) < 1 / 0.98, truth
    assert simulated(costs, 0.98) < (0.5 if not gpu else 0.25)


def test_a_model_is_asked_again_when_the_text_changes() -> None:
    costs, drafts = Costs(ON_GPU), Drafts()
    sizes = []
    for number in range(7000):  # always wrong, and always right from 5000 on
        size = drafts.wanted(MOST_ROWS - 1, costs, 0.02)
        drafts.modelled([1] * size, costs, 0.02) if size else drafts.copied(0, costs)
        drafts.accept(size if number >= 5000 else 0)
        sizes.append(size)
    assert sum(map(bool, sizes[:5000])) < 200 and min(sizes[-1000:]) >= 15


def test_a_copy_is_drafted_soon_after_drafts_that_were_wrong() -> None:
    """What is foretold and not drafted is learned from, so that no credit is waited for."""
    costs, drafts = Costs(ON_CPU), Drafts()
    text = list(range(1000, 1100))
    drafts.lookup.extend(text)
    drafts.budget.balance = 0.0
    for kind in drafts.budget.copied.values():
        kind.saw(False)
    for token in text[:25]:
        drafts.lookup.extend((token,))
        if drafts.copied(MOST_ROWS - 1, costs):
            break
        drafts.accept(0)
    assert drafts.proposed
    for kind in drafts.budget.copied.values():
        kind.right, kind.seen = 0.0, 50.0  # nothing was right for long: it waits longer
    assert not drafts.copied(MOST_ROWS - 1, costs)


def test_what_was_foretold_rightly_gives_credit_back() -> None:
    """An account that is empty holds up no copy that has begun, however sure that one is by now."""
    budget, kind = Budget(balance=0.0), Kind(0.85)
    costs = Costs({1: 1.0, 2: 1.28, 4: 1.55, 8: 2.04, 16: 3.09})
    kind.saw(False)
    assert not budget.length([kind] * 15, costs)
    for _ in range(2):
        budget.saw_foretold(kind, True)
    assert budget.length([kind] * 15, costs)
    for _ in range(100):
        budget.saw_foretold(kind, True)
    assert budget.balance == MOST_REGAINED


def test_costs_between_known_ones_are_interpolated() -> None:
    costs = Costs({1: 1.0, 3: 2.0, 9: 8.0})
    assert [costs.of(n) for n in (1, 2, 3, 6, 9)] == [1.0, 1.5, 2.0, 5.0, 8.0]
    assert costs.of(10) == 9.0
