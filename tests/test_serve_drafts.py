"""Drafts in a server: the same answers in fewer steps, and counted."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from convert import convert
from llamacli.answer import Calling, Result
from llamacli.batch import BatchEngine, Job, Pace
from llamacli.engine import EngineSettings, SamplingSettings
from llamacli.prompt import encode_turns
from llamacli.serve.lane import Lane, Task
from llamacli.serve.metrics import Metrics
from llamacli.serve.stream import Piece
from llamacli.shape import read_schema
from llamacli.speculate import Drafting
from llamacli.tools import check_tools
from tests.test_batch_drafts import DEMO, FREE, SCHEMA, TIE
from tests.test_cli import llamacli, one_line

GREEDY = SamplingSettings(temperature=0)
SETTINGS = EngineSettings(context=1024, threads=1, device="cpu")
TOOLS = check_tools(
    [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather at a place.",
                "parameters": {
                    "type": "object",
                    "properties": {"place": {"type": "string", "maxLength": 20}},
                    "required": ["place"],
                },
            },
        }
    ]
)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BatchEngine, BatchEngine]]:
    """Without drafts, and with those of the model itself, which cost nothing here."""
    path = tmp_path_factory.mktemp("drafts") / "demo.gguf"
    convert(DEMO, path, "Q8_0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llamacli.batch.proposals.drafting_cost", lambda *_: 0.01)
        with (
            BatchEngine(path, SETTINGS, 2) as plain,
            BatchEngine(path, SETTINGS, 2, Drafting(path, FREE)) as drafting,
        ):
            yield plain, drafting


def answered(
    engine: BatchEngine, metrics: Metrics, **options: Any
) -> tuple[list[Result], list[list[Piece]], int]:
    """Three answers to two prompts, where two have room: their results and pieces, and steps."""
    asked = [
        Job(encode_turns(engine, [{"role": "user", "content": text}]), GREEDY, 60)
        for text in ("What is GGUF?", "Which quantizations are there?")
    ]
    jobs = [replace(job, **options) for job in (asked[0], asked[1], asked[0])]
    pieces: list[list[Piece]] = [[] for _ in jobs]
    lane, steps = Lane(engine, Pace(), metrics), 0
    for index, job in enumerate(jobs):
        lane.waiting.append(Task(index, job, pieces[index].append))
    while lane.busy:
        lane.admit()
        lane.turn(lambda: None)
        steps += 1
    engine.library.llama_memory_clear(engine.memory, False)
    results = [got[-1].result for got in pieces]
    assert all(results), pieces
    return [one for one in results if one is not None], pieces, steps


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stop": (" file", ",")},
        {"sampling": SamplingSettings(temperature=0, repeat_penalty=1.2, presence_penalty=0.3)},
        {"sampling": SamplingSettings(temperature=1.0, seed=3)},
        {"logprobs": 2},
        {"shape": read_schema(json.dumps(SCHEMA))},
        {"calling": Calling(TOOLS, "required")},
        {"calling": Calling(TOOLS)},
    ],
    ids=["greedy", "stops", "penalties", "sampled", "logprobs", "schema", "called", "maybe called"],
)
def test_a_server_gives_the_same_answers_in_fewer_steps(
    engines: tuple[BatchEngine, BatchEngine], options: dict[str, Any]
) -> None:
    counted = Metrics()
    plain, before, without = answered(engines[0], Metrics(), **options)
    drafted, after, steps = answered(engines[1], counted, **options)
    assert [one.tokens for one in drafted] == [one.tokens for one in plain]
    assert [one.text for one in drafted] == [one.text for one in plain]
    assert [one.finish_reason for one in drafted] == [one.finish_reason for one in plain]
    assert steps < without
    for one, other in zip(before, after, strict=True):
        assert "".join(piece.text for piece in one) == "".join(piece.text for piece in other)
        assert {piece.held for piece in one if piece.text} == {p.held for p in other if p.text}
        said, again = ([s for piece in got for s in piece.logprobs] for got in (one, other))
        assert [s.chosen.token for s in said] == [s.chosen.token for s in again]
        for told, also in zip(said, again, strict=True):
            assert also.chosen.logprob == pytest.approx(told.chosen.logprob, abs=TIE)
    lines = [line.split() for line in counted.text().decode().splitlines()]
    counts = {line[0]: float(line[1]) for line in lines if line[0] != "#"}
    assert counts["llamacli_tokens_predicted_total"] >= sum(one.answer_tokens for one in drafted)
    assert counts["llamacli_drafted_tokens_total"] == sum(one.drafted.tokens for one in drafted)
    accepted = counts["llamacli_drafted_tokens_accepted_total"]
    assert accepted == sum(one.drafted.accepted for one in drafted) > 0


def test_a_model_that_drafts_is_for_one_vocabulary() -> None:
    told = one_line(llamacli("serve", "--draft", "x.gguf", check=2))
    assert "--draft goes with one -m" in told
