"""Batches: each line's answer is the one that run gives, and no line harms another."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

import llamacli.batch.engine as engine_module
import llamacli.batch.scheduler as batch_module
import llamacli.engine.context as context_module
from llamacli.answer import Result, generate
from llamacli.batch import (
    BatchEngine,
    Job,
    Running,
    Scheduler,
    answer_all,
    answer_each,
    prepare,
    read_lines,
)
from llamacli.commands.batch import check_output
from llamacli.engine.engine import Engine
from llamacli.engine.sampling import SamplingSettings
from llamacli.engine.settings import EngineSettings
from llamacli.errors import InvalidModelError, LlamacliError, OutputError, UsageError
from llamacli.shape.read import choice_grammar
from llamacli.speculate import DraftingEngine
from tests.standins.program import PROGRAM, run_program
from tests.standins.tiny import VOCABULARY, write_model
from tests.standins.waiting import PATIENCE, wait_until
from tests.systems import needs_signals

TIE = 1e-2  # the cache is F16, and logits here are some units apart
SETTINGS = EngineSettings(threads=1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def single(path: Path) -> Iterator[Engine]:
    with Engine(path, SETTINGS) as engine:
        yield engine


def prompts(count: int, shared: int, longest: int, seed: int = 0) -> list[list[int]]:
    generator = random.Random(seed)
    start = [generator.randrange(3, 700) for _ in range(shared)]
    lengths = [generator.randrange(1, longest) for _ in range(count)]
    return [start + [generator.randrange(3, 700) for _ in range(n)] for n in lengths]


def assert_same_or_tie(engine: Engine, prompt: list[int], answer: tuple[int, ...]) -> None:
    """The greedy answer, or one that leaves it where two logits are all but the same.

    Other batch shapes add up the same products in another order, so that logits differ in their
    last bits; which of two equal ones is greater is then open, and all after it differs.
    """
    chunks = generate(engine, prompt, SamplingSettings(temperature=0), max_tokens=len(answer))
    result = list(chunks)[-1].result
    assert result is not None
    if result.tokens == answer:
        return
    at = next(i for i, (a, b) in enumerate(zip(result.tokens, answer, strict=False)) if a != b)
    engine.prefill([*prompt, *answer[:at]])
    logits = engine.logits()
    assert abs(logits[result.tokens[at]] - logits[answer[at]]) < TIE


@pytest.mark.parametrize("parallel", [1, 3, 8])
def test_answers_are_those_of_single_runs(path: Path, single: Engine, parallel: int) -> None:
    asked = prompts(20, 60, 50)
    lengths = [random.Random(i).randrange(1, 40) for i in range(20)]
    with BatchEngine(path, SETTINGS, parallel) as engine:
        jobs = (
            Job(prompt, SamplingSettings(temperature=0), max_tokens=most)
            for prompt, most in zip(asked, lengths, strict=True)
        )
        results = dict(answer_all(engine, jobs))
    assert sorted(results) == list(range(20))
    for i, result in results.items():
        assert isinstance(result, Result)
        assert result.prompt_tokens == len(asked[i])
        assert_same_or_tie(single, asked[i], result.tokens)


def test_alone_each_answer_is_the_one_that_run_gives(path: Path) -> None:
    """To the bit of the logits: nothing is left of the job before, nor of a cache that grew."""
    asked = [prompts(1, 0, 900, seed=4)[0] * 3, *prompts(5, 30, 40)]
    asked[0] = asked[0][:1000]
    sampling = SamplingSettings(temperature=1.5, top_k=0, top_p=1.0, seed=11)
    jobs = [Job(prompt, sampling, max_tokens=20) for prompt in asked]
    jobs.insert(1, Job([5] * 2000, sampling))  # longer than the context
    with DraftingEngine(path, SETTINGS) as engine:
        answers = dict(answer_each(engine, jobs))
        assert isinstance(answers.pop(1), LlamacliError)
    for prompt, result in zip(asked, (answers[i] for i in sorted(answers)), strict=True):
        with DraftingEngine(path, SETTINGS) as fresh:  # as run does
            expected = list(generate(fresh, prompt, sampling, max_tokens=20))[-1].result
        assert isinstance(result, Result) and expected is not None
        assert result.tokens == expected.tokens and result.cached_tokens == 0


def test_alone_an_interrupted_answer_is_left_out(path: Path) -> None:
    done: list[int] = []
    jobs = [Job([5, 6, 7], SamplingSettings(temperature=0), max_tokens=10)] * 9
    with Engine(path, SETTINGS) as engine:

        def interrupted() -> bool:  # within the third answer
            return len(done) == 2 and 5 < len(engine.tokens) < 9

        answers = dict(answer_each(engine, jobs, interrupted=interrupted, on_step=done.append))
    assert sorted(answers) == [0, 1] and done[:2] == [10, 10]


def test_a_seed_draws_what_run_draws(path: Path, single: Engine) -> None:
    """Sampling is each sequence's own; with these logits no draw is near a border."""
    sampling = SamplingSettings(temperature=1.0, top_k=3, seed=7)
    asked = prompts(6, 5, 20)
    with BatchEngine(path, SETTINGS, 4) as engine:
        results = dict(answer_all(engine, (Job(p, sampling, max_tokens=5) for p in asked)))
    for i, prompt in enumerate(asked):
        expected = list(generate(single, prompt, sampling, max_tokens=5))[-1].result
        result = results[i]
        assert isinstance(result, Result) and expected is not None
        assert result.tokens == expected.tokens and result.seed == 7


def test_shared_start_is_evaluated_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = []
    fill = engine_module.BatchEngine.fill

    def counted(self: Any, parts: Any) -> Any:
        rows = fill(self, parts)
        evaluated.append(self.batch.n_tokens)
        return rows

    monkeypatch.setattr(engine_module.BatchEngine, "fill", counted)
    asked = prompts(12, 300, 2)
    with BatchEngine(path, SETTINGS, 4) as engine:
        jobs = (Job(p, SamplingSettings(temperature=0), max_tokens=3) for p in asked)
        results = [result for _, result in answer_all(engine, jobs)]
    assert all(isinstance(r, Result) for r in results)
    assert sorted(r.cached_tokens for r in results if isinstance(r, Result)) == [0] + [300] * 11
    assert sum(evaluated) == 301 + 11 + 12 * 2  # the last of three tokens is not evaluated


def test_a_finished_ones_place_is_taken_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long answer and many short ones: the short ones go by beside it."""
    beside = []
    step = batch_module.Scheduler.step

    def counted(self: Any, interrupted: Any) -> Any:
        beside.append(len(self.running))
        return step(self, interrupted)

    monkeypatch.setattr(batch_module.Scheduler, "step", counted)
    asked = prompts(9, 0, 5)
    with BatchEngine(path, SETTINGS, 2) as engine:
        greedy = SamplingSettings(temperature=0)
        jobs = (Job(p, greedy, max_tokens=40 if i == 0 else 5) for i, p in enumerate(asked))
        order = [i for i, _ in answer_all(engine, jobs)]
    assert order[-1] == 0 or order[-2] == 0
    assert beside[:40].count(2) >= 39


def test_a_full_cache_makes_one_wait(
    path: Path, single: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts whose answers don't fit beside each other: all come, none changed."""
    monkeypatch.setattr(context_module, "shared_cells", lambda context, parallel: 256)
    put_back = []
    make_room = batch_module.Scheduler._make_room

    def counted(self: Any) -> None:
        put_back.append(len(self.running))
        make_room(self)

    monkeypatch.setattr(batch_module.Scheduler, "_make_room", counted)
    asked = prompts(9, 0, 60, seed=3)
    settings = EngineSettings(threads=1, context=250)
    with BatchEngine(path, settings, 4) as engine:
        jobs = (Job(p, SamplingSettings(temperature=0), max_tokens=150) for p in asked)
        results = dict(answer_all(engine, jobs))
    assert put_back
    for i, prompt in enumerate(asked):
        result = results[i]
        assert isinstance(result, Result)
        assert_same_or_tie(single, prompt, result.tokens)


def test_one_bad_job_harms_no_other(path: Path) -> None:
    greedy = SamplingSettings(temperature=0)
    good, long = prompts(1, 0, 30)[0], [5] * 2000
    with BatchEngine(path, SETTINGS, 2) as engine:
        jobs = iter([Job(good, greedy, 3), Job(long, greedy, 3), Job(good, greedy, 3)])
        results = dict(answer_all(engine, jobs))
    assert isinstance(results[1], LlamacliError) and "2000 tokens" in str(results[1])
    first, last = results[0], results[2]
    assert isinstance(first, Result) and isinstance(last, Result) and first.tokens == last.tokens


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose tokens from 1,000 on are no numbers."""
    target = write_model(tmp_path_factory.mktemp("damaged") / "tiny.gguf")
    reader = GGUFReader(target, "r+")
    (embedding,) = (one for one in reader.tensors if one.name == "token_embd.weight")
    embedding.data[1000:] = np.nan
    reader.data.flush()
    return target


GREEDY = SamplingSettings(temperature=0)
DAMAGED = SamplingSettings(temperature=0, logit_bias=((1000, 90.0),))  # said at once


@pytest.mark.parametrize("flash", ["on", "off"])
def test_what_is_no_number_makes_no_other_answer_wrong(damaged: Path, flash: str) -> None:
    settings = replace(SETTINGS, context=256, flash_attention=flash)
    good = Job([5, 6, 7, 8], SamplingSettings(temperature=0), 8)
    late, early = Job([9, 10, 11], DAMAGED, 8), Job([9, 1000, 11], good.sampling, 8)
    with BatchEngine(damaged, settings, 1) as engine:
        expected = dict(answer_all(engine, iter([good])))[0]
    with BatchEngine(damaged, settings, 2) as engine:
        scheduler = Scheduler(engine)

        def answered(*jobs: Job) -> list[Running]:
            running = [prepare(engine, i, job) for i, job in enumerate(jobs)]
            for one in running:
                scheduler.start(one)
            while scheduler.running:
                scheduler.step()
            return running

        for beside in (late, early, early):
            first, bad = answered(good, beside)
            assert isinstance(bad.error, InvalidModelError) and "damaged" in str(bad.error)
            (after,) = answered(good)
            assert isinstance(expected, Result) and after.error is None
            assert tuple(after.answer.tokens) == expected.tokens
            # In one batch, masked sums are none, too, where attention is of plain products.
            told = flash == "off" and isinstance(first.error, InvalidModelError)
            assert told or tuple(first.answer.tokens) == expected.tokens


def test_nobody_begins_at_what_a_failed_answer_left(damaged: Path) -> None:
    """One that had to make room goes on as it ends, when the cache has been emptied."""
    prompts = (5, 6, 7, 8), (20, 21, 22, 23), (9, 10, 11, 12)
    jobs = good, beside, alike = [Job(list(prompt), GREEDY, 8) for prompt in prompts]
    settings = replace(SETTINGS, context=256, flash_attention="on")
    with BatchEngine(damaged, settings, 2) as engine:
        expected = dict(answer_all(engine, iter(jobs)))
        scheduler = Scheduler(engine)

        def answered(*jobs: Job, later: Job | None = None) -> list[Running]:
            running = [prepare(engine, i, job) for i, job in enumerate(jobs)]
            for one in running:
                scheduler.start(one)
            if later is not None:
                running.append(prepare(engine, len(jobs), later))
                scheduler.put_back.append(running[-1])
            while scheduler.running:
                scheduler.step()
            return running

        answered(good)  # whose state is there, aside, when it goes on later
        bad, second, first = answered(Job([9, 10, 11], DAMAGED, 8), beside, later=good)
        (third,) = answered(alike)
    assert isinstance(bad.error, InvalidModelError)
    for index, one in enumerate((first, second, third)):
        result = expected[index]
        assert isinstance(result, Result) and one.error is None
        assert tuple(one.answer.tokens) == result.tokens
    assert third.cached == 0 < first.cached


def test_what_is_no_number_is_told_wherever_it_comes(damaged: Path) -> None:
    with Engine(damaged, replace(SETTINGS, flash_attention="off")) as engine:
        expected = list(generate(engine, [5, 6, 7], SamplingSettings(temperature=0), max_tokens=8))
        engine.keep(0)
        with pytest.raises(InvalidModelError, match="computes nan"):
            list(generate(engine, [9, 10, 11], DAMAGED, max_tokens=8))
        answer = list(generate(engine, [5, 6, 7], SamplingSettings(temperature=0), max_tokens=8))
        assert answer[-1].result is not None and expected[-1].result is not None
        assert answer[-1].result.tokens == expected[-1].result.tokens


def test_a_prompt_without_tokens_is_told(path: Path) -> None:
    """As of a template that writes nothing; llama.cpp would end the process."""
    greedy = SamplingSettings(temperature=0)
    with BatchEngine(path, SETTINGS, 2) as engine:
        results = dict(answer_all(engine, iter([Job([], greedy, 3), Job([5], greedy, 3)])))
        alone = dict(answer_each(engine, [Job([], greedy, 3)]))
    assert isinstance(results[1], Result)
    for told in (results[0], alone[0]):
        assert isinstance(told, UsageError) and "no tokens" in str(told)


def test_answers_that_are_given_up_after_their_engine_touch_nothing_of_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared: list[bool] = []
    with BatchEngine(path, SETTINGS, 2) as engine:
        answers = answer_all(engine, iter([Job([5], SamplingSettings(temperature=0), 2)] * 3))
        next(answers)
        monkeypatch.setattr(
            engine.library, "llama_memory_clear", lambda *_: cleared.append(engine.closed)
        )
    answers.close()  # type: ignore[attr-defined]
    assert not any(cleared)


def test_shapes_hold_side_by_side(path: Path) -> None:
    words = ["yes", "no", "perhaps"]
    with BatchEngine(path, SETTINGS, 4) as engine:
        sampling = SamplingSettings(temperature=3.0, top_k=0, top_p=1.0)
        jobs = (Job(p, sampling, 20, shape=choice_grammar(words)) for p in prompts(20, 3, 9))
        results = [result for _, result in answer_all(engine, jobs)]
    assert {r.text for r in results if isinstance(r, Result)} <= set(words)
    assert len(results) == 20 and all(isinstance(r, Result) for r in results)


def test_noise_does_not_tie() -> None:
    """What assert_same_or_tie lets through is rare: random logits lie farther apart."""
    logits = np.random.default_rng(0).standard_normal((200, VOCABULARY)) * 5
    ordered = np.sort(logits, axis=1)
    assert np.mean(ordered[:, -1] - ordered[:, -2] < TIE) < 0.02


# The command


def llamacli(*arguments: str | Path, stdin: bytes = b"", check: int = 0) -> list[dict[str, Any]]:
    child = run_program([*PROGRAM, *arguments, "--threads", "1"], input=stdin)
    assert child.returncode == check, child.stderr.decode()
    return [json.loads(line) for line in child.stdout.decode().splitlines()]


def test_text_lines_in_order(path: Path) -> None:
    options = ("-m", path, "--temp", "0", "-n", "8")
    result = llamacli("batch", *options, stdin=b"one\n\ntwo words\r\nthree\n")
    assert [line["id"] for line in result] == [1, 3, 4]
    run = llamacli("run", "two words", *options, "--json")[0]
    assert result[1]["text"] == run["text"] and result[1]["prompt_tokens"] == run["prompt_tokens"]
    assert all(line["finish_reason"] in ("stop", "length") for line in result)


def test_exact_answers_are_those_of_run(path: Path) -> None:
    """Random weights at a high temperature: a draw from any other logits would soon show."""
    options = ["-m", path, "-n", "12", "--temp", "2", "--seed", "5", "--top-k", "0"]
    texts = ["one", "two words of it", "one"]
    result = llamacli("batch", "--exact", *options, stdin="\n".join(texts).encode())
    for text, line in zip(texts, result, strict=True):
        run = llamacli("run", text, *options, "--json")[0]
        assert (line["text"], line["answer_tokens"]) == (run["text"], run["answer_tokens"])


def test_json_lines_have_their_own_settings(path: Path) -> None:
    lines: list[Any] = [
        {"id": "a", "prompt": "hi", "max_tokens": 2, "temperature": 0},
        {"id": 7, "messages": [{"role": "system", "content": "s"},
                               {"role": "user", "content": "hi"}], "max_tokens": 3, "seed": 5},
    ]  # fmt: skip
    data = "\n".join(map(json.dumps, lines)).encode()
    result = llamacli("batch", "-", "-m", path, "-n", "20", stdin=data)
    assert [line["id"] for line in result] == ["a", 7]
    assert result[0]["answer_tokens"] <= 2 and result[1]["seed"] == 5
    assert result[1]["prompt_tokens"] > result[0]["prompt_tokens"]


def test_bad_lines_are_told_and_the_rest_goes_on(path: Path) -> None:
    data = b'{"prompt": "x"}\n{"prompt"\n{"prompt": 5}\n{"prompt": "a", "temprature": 1}\n'
    data += b'{"prompt": "a", "top_p": 9}\n[1]\n{"prompt": "\xff"}\n{"prompt": "  "}\n'
    data += b'{"id": 1, "prompt": "again"}\n{"id": [2], "prompt": "a"}\n'
    data += b'{"prompt": "a", "messages": []}\n{"messages": [{"role": "boss", "content": ""}]}\n'
    data += b'{"id": "last", "prompt": "y"}\n'
    result = llamacli("batch", "-m", path, "-n", "2", stdin=data, check=1)
    assert len(result) == 13
    assert [i for i, line in enumerate(result) if "error" not in line] == [0, 12]
    expected = ["not JSON", "prompt is a text", "temprature", "top-p", "JSON object", "byte 12",
                "empty", "line 1 already", "id is a text", "either", "has the role"]  # fmt: skip
    for line, words in zip(result[1:12], expected, strict=True):
        assert words in line["error"], line
    assert result[8]["id"] == 9  # so that --resume finds the error, and the answer, again


def test_template_takes_fields(path: Path) -> None:
    data = b'{"id": 1, "text": "a", "lang": "French", "note": 3}\n{"id": 2, "text": "b"}\n'
    template = "{{x}} to {lang}: {text}"
    result = llamacli(
        "batch", "-m", path, "-n", "3", "--template", template, "--temp", "0", stdin=data, check=1
    )
    run = llamacli("run", "{x} to French: a", "-m", path, "-n", "3", "--temp", "0", "--json")[0]
    assert result[0]["text"] == run["text"]
    assert "wants {lang}" in result[1]["error"]


def test_a_template_that_fits_no_line_replaces_no_output(path: Path, tmp_path: Path) -> None:
    (out := tmp_path / "out").write_text("kept")
    options = ("-m", path, "-o", out, "--force", "--template", "{txt}")
    llamacli("batch", *options, stdin=b"a\nb\n", check=2)
    assert out.read_text() == "kept"


def test_choices_for_each_line(path: Path) -> None:
    data = "\n".join(f"line {i}" for i in range(12)).encode()
    result = llamacli("batch", "-m", path, "--choice", "yes", "--choice", "no", stdin=data)
    assert len(result) == 12 and {line["text"] for line in result} <= {"yes", "no"}


def test_resume_goes_on_where_it_was_cut(path: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"line {i}\n" for i in range(10)))
    options = ("-m", path, "--temp", "0", "-n", "4")
    whole = llamacli("batch", source, *options)
    llamacli("batch", source, *options, "-o", out)
    complete = out.read_text().splitlines(keepends=True)
    out.write_text("".join(complete[:4]) + complete[4][:20])
    llamacli("batch", source, *options, "-o", out, check=6)  # not without --resume or --force
    llamacli("batch", source, *options, "-o", out, "--resume")
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["id"], line["text"]) for line in records] == [
        (line["id"], line["text"]) for line in whole
    ]
    before = out.read_text()
    llamacli("batch", source, *options, "-o", out, "--resume")
    assert out.read_text() == before
    out.write_text("something else\n")
    llamacli("batch", source, *options, "-o", out, "--resume", check=3)
    assert out.read_text() == "something else\n"


@needs_signals
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_whole_lines(
    path: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"line {i}\n" for i in range(3000)))
    child = subprocess.Popen(
        [sys.executable, "-m", "llamacli", "batch", source, "-m", path, "-n", "20", "--threads",
         "1", "-o", out],
        stderr=subprocess.PIPE,
        env={**os.environ},
    )  # fmt: skip
    wait_until(lambda: out.exists() and out.stat().st_size > 1000, child)
    child.send_signal(number)
    _, told = child.communicate(timeout=PATIENCE)
    assert child.returncode == code, told
    text = out.read_text()
    assert text.endswith("\n")
    ids = [json.loads(line)["id"] for line in text.splitlines()]
    assert ids == list(range(1, len(ids) + 1)) and 0 < len(ids) < 3000


@pytest.mark.parametrize(
    ("arguments", "stdin", "code"),
    [
        (["--parallel", "0"], b"x", 2),
        (["--parallel", "999"], b"x", 2),
        (["--resume"], b"x", 2),
        ([], b"\n \n", 2),
        (["nowhere.txt"], b"", 4),
        (["-m", "nothing"], b"x", 4),
        (["-o", "/proc/none/out"], b"x", 6),
        (["--choice", "a", "--stop", "b"], b"x", 2),
    ],
)
def test_wrong_usage(path: Path, arguments: list[str], stdin: bytes, code: int) -> None:
    llamacli("batch", "-m", path, *arguments, stdin=stdin, check=code)


def test_force_keeps_the_old_file_until_there_is_something_to_write(
    path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("precious\n")
    options = ("-o", out, "--force", "-n", "2")
    llamacli("batch", "-m", "no-such-model", *options, stdin=b"x", check=4)
    llamacli("batch", "-m", path, "-c", "1", *options, stdin=b"\n \n", check=2)
    llamacli("batch", "-m", path, "--device", "none", *options, stdin=b"x", check=2)
    assert out.read_text() == "precious\n"
    llamacli("batch", "-m", path, *options, stdin=b"x")
    assert json.loads(out.read_text())["id"] == 1


def test_a_batch_that_fails_at_once_leaves_no_file(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    llamacli("batch", "-m", path, "-o", out, "--device", "none", stdin=b"x", check=2)
    assert not out.exists()


def test_a_folder_that_is_missing_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        check_output(tmp_path / "none" / "out.jsonl", Path("-"), resume=False, force=False)


def test_a_batch_does_not_write_over_what_it_reads(path: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("a question\n")
    llamacli("batch", source, "-m", path, "-o", source, "--force", check=2)
    assert source.read_text() == "a question\n"


def test_lines_end_at_newlines_alone(path: Path, tmp_path: Path) -> None:
    """Ids with characters that Python's splitlines takes for ends."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    odd = ["a\u2028b", "a\u2029b", "a\x85b", "a\x0bb", "a\rb", "\x9b"]
    rows = [json.dumps({"id": identity, "prompt": "x"}) for identity in odd]
    rows.insert(3, json.dumps({"id": "half \ud800", "prompt": "x"}))
    source.write_text("\n".join(rows))
    options = ("-m", path, "-n", "2", "-o", out)
    llamacli("batch", source, *options, check=1)
    written = out.read_bytes()
    records = [json.loads(line) for line in written.decode().split("\n")[:-1]]
    assert [row["id"] for row in records] == [*odd[:3], 4, *odd[3:]]
    assert "half a surrogate pair" in records[3]["error"]
    assert [row["id"] for row in records if "error" in row] == [4]
    llamacli("batch", source, *options, "--resume", check=1)
    assert out.read_bytes() == written


def test_resume_on_bytes_that_are_not_utf_8(path: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("a\nb\n")
    options = (source, "-m", path, "-n", "2", "-o", out, "--resume")
    whole = b'{"id": 1, "text": "\xc3\xa4\xc3\xa4"}\n'
    out.write_bytes(whole + b'{"id": 2, "text": "\xc3')  # cut in a character
    llamacli("batch", *options)
    lines = out.read_bytes().split(b"\n")
    assert lines[0] + b"\n" == whole and json.loads(lines[1])["id"] == 2 and lines[2:] == [b""]
    bad = b'{"id": 1, "text": "\xff"}\n' + whole
    out.write_bytes(bad)
    llamacli("batch", *options, check=3)
    assert out.read_bytes() == bad


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_what_windows_programs_write_is_read(encoding: str) -> None:
    data = '{"prompt": "é漢"}\r\n{"prompt": "🦙"}\r\n'.encode(encoding)
    questions = [line.messages[0]["content"] for line in read_lines(data)]  # type: ignore[union-attr]
    assert questions == ["é漢", "🦙"]


def test_a_file_that_is_no_text_is_no_prompts() -> None:
    data = Path(sys.executable).read_bytes()[: 1 << 16]
    with pytest.raises(UsageError, match="it is no text"):
        list(read_lines(data))
    with pytest.raises(UsageError, match="not UTF-16 at byte 4"):
        list(read_lines("x\n".encode("utf-16")[:-1]))
    assert list(read_lines(data, replace=True))


def test_a_malformed_first_line_is_no_prompt(path: Path) -> None:
    rows = b'{"prompt": "x",}\n{"prompt": "y"}\n'
    first, second = llamacli("batch", "-m", path, "-n", "2", stdin=rows, check=1)
    assert "not JSON" in first["error"] and "text" in second
    (only,) = llamacli("batch", "-m", path, "-n", "2", stdin=b'  {"prompt": "x",}\n', check=1)
    assert "not JSON" in only["error"]
    rows = b'"prompt": "x"}\n{"prompt": "y"}\n'
    assert "not JSON" in llamacli("batch", "-m", path, "-n", "2", stdin=rows, check=1)[0]["error"]
