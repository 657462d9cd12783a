"""Tuning: what is decided from measurements, what is kept, and the real program on the demo."""

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamacli.commands.groups import Together
from llamacli.commands.tune import tune as command
from llamacli.engine.settings import Asked, EngineSettings, chosen_settings
from llamacli.errors import DoesNotFitError, UsageError
from llamacli.machine import resources
from llamacli.models.opening import demo_model, engine_settings
from llamacli.speculate import Costs
from llamacli.speculate.costs import LEARNED
from llamacli.tune import profiles
from llamacli.tune.measure import Sample, Size
from llamacli.tune.profiles import (
    forget,
    keep,
    kept_path,
    tuned_costs,
    tuned_settings,
)
from llamacli.tune.search import (
    MOST_ROUNDS,
    Trials,
    Tuning,
    applied,
    groups,
    measure_stage,
    size_for,
    tune,
)
from llamacli.tune.stages import (
    WORKS,
    Stage,
    Work,
    batch_stage,
    estimate,
    flash_stage,
    in_the_running,
    kv_stage,
    threads_stage,
    weights_stage,
    winner,
)
from tests.standins.tiny import write_model
from tests.test_cli import llamacli

PREFILL = Work(prompt=1)
BOTH = {"short": EngineSettings(repack=False), "long": EngineSettings()}


def rounds(**times: list[float]) -> list[dict[str, Sample]]:
    """A round for each place of the lists: seconds a token of prefill by candidate."""
    return [
        {name: Sample(prefill=value) for name, value in zip(times, values, strict=True)}
        for values in zip(*times.values(), strict=True)
    ]


def test_the_faster_one_wins() -> None:
    assert winner(rounds(a=[1.0, 1.01, 0.99], b=[0.8, 0.81, 0.79]), PREFILL, "a") == "b"


def test_a_tie_leaves_the_default() -> None:
    measured = rounds(a=[1.0, 1.2, 0.9, 1.1], b=[1.01, 1.1, 0.99, 1.1])
    assert winner(measured, PREFILL, "a") == "a"
    assert winner(measured, PREFILL, "b") == "b"


def test_a_small_gain_in_every_round_is_taken() -> None:
    """As measured on two cores with AVX2, where repacking was slower in every figure."""
    repacked = [Sample(0.55, 1 / 340, 1 / 48.7), Sample(0.54, 1 / 342, 1 / 48.2)]
    plain = [Sample(0.43, 1 / 377, 1 / 49.6), Sample(0.44, 1 / 371, 1 / 49.9)]
    measured = [{"repacked": a, "plain": b} for a, b in zip(repacked, plain, strict=True)]
    for work in WORKS.values():
        assert winner(measured, work, "repacked") == "plain"
        assert winner(measured, work, "plain") == "plain"


def test_what_does_not_matter_leaves_the_default() -> None:
    assert winner(rounds(a=[1.0, 1.0, 1.0], b=[0.998, 0.998, 0.998]), PREFILL, "a") == "a"


def test_noise_is_shrunk_towards_no_difference() -> None:
    """The same mean says more where the rounds agree."""
    steady, _ = estimate(rounds(a=[1.0] * 4, b=[0.9] * 4), PREFILL, "b", "a")
    wild, unsure = estimate(rounds(a=[1.0] * 4, b=[0.6, 1.35, 0.6, 1.35]), PREFILL, "b", "a")
    assert -0.106 < steady < -0.1 and -0.09 < wild < 0 and unsure > 0.08


def test_one_round_decides_where_there_is_time_for_no_more() -> None:
    assert winner(rounds(a=[1.0], b=[0.8]), PREFILL, "a") == "b"
    assert in_the_running(rounds(a=[1.0], b=[5.0]), [PREFILL]) == ["a", "b"]


def test_a_machine_that_slows_down_meanwhile_doesnt_hide_who_is_faster() -> None:
    slowing = [1.0, 1.5, 2.2, 3.0]
    measured = rounds(a=slowing, b=[0.9 * seconds for seconds in slowing])
    assert winner(measured, PREFILL, "a") == "b"


def test_one_is_dropped_only_where_it_is_behind_for_every_use() -> None:
    loads_fast = Sample(load=0.1, prefill=0.01, decode=0.03)
    decodes_fast = Sample(load=3.0, prefill=0.015, decode=0.02)
    neither = Sample(load=3.0, prefill=0.02, decode=0.03)
    measured = [{"fast load": loads_fast, "fast decode": decodes_fast, "neither": neither}] * 3
    assert in_the_running(measured, list(WORKS.values())) == ["fast load", "fast decode"]
    assert winner(measured, WORKS["short"], "neither") == "fast load"
    assert winner(measured, WORKS["long"], "neither") == "fast decode"


def fixed(seconds: Mapping[str, float], asked: list[str]) -> Any:
    """A stand-in for measuring: each candidate, told by its flash attention, takes its time."""

    def measure(settings: EngineSettings, size: Size, reload: bool) -> Sample:
        asked.append(settings.flash_attention)
        return Sample(prefill=seconds[settings.flash_attention])

    return measure


THREE = Stage(
    "three",
    {name: {"flash_attention": name} for name in ("auto", "off", "on")},
    threads_stage((1, 2), 1, ("short",)).goals[:1],
)


def test_the_clearly_slower_arent_measured_again() -> None:
    asked: list[str] = []
    measure = fixed({"auto": 1.0, "off": 1.0, "on": 2.0}, asked)
    rounds = measure_stage(THREE, EngineSettings(), Size(1, 1), measure, 1e9, lambda: 0.0)
    assert len(rounds) == MOST_ROUNDS
    assert asked.count("on") == 2
    assert asked.count("auto") == asked.count("off") == MOST_ROUNDS


def test_a_load_counts_only_where_each_measurement_has_one() -> None:
    def measure(settings: EngineSettings, size: Size, reload: bool) -> Sample:
        return Sample(load=5.0, prefill=1.0, decode=1.0)

    for stage in (THREE, replace(THREE, reload=True)):
        rounds = measure_stage(stage, EngineSettings(), Size(1, 1), measure, 0.0, lambda: 1.0)
        loads = {sample.load for sample in rounds[0].values()}
        assert loads == ({5.0} if stage.reload else {0.0})


def test_one_that_does_not_fit_is_left_out() -> None:
    def measure(settings: EngineSettings, size: Size, reload: bool) -> Sample:
        if settings.flash_attention == "off":
            raise DoesNotFitError("too large")
        return Sample(prefill=1.0)

    rounds = measure_stage(THREE, EngineSettings(), Size(1, 1), measure, 1e9, lambda: 0.0)
    assert len(rounds) == MOST_ROUNDS
    assert all(set(samples) == {"auto", "on"} for samples in rounds)


def test_candidates_take_turns_in_being_first() -> None:
    asked: list[str] = []
    measure = fixed({"auto": 1.0, "off": 1.0, "on": 1.0}, asked)
    measure_stage(THREE, EngineSettings(), Size(1, 1), measure, 1e9, lambda: 0.0)
    assert asked[:9] == ["auto", "off", "on", "off", "on", "auto", "on", "auto", "off"]


def test_measuring_ends_when_the_time_is_over() -> None:
    asked: list[str] = []
    measure = fixed({"auto": 1.0, "off": 1.0, "on": 1.0}, asked)
    clock = iter([1.0, 2.0, 3.0])
    rounds = measure_stage(THREE, EngineSettings(), Size(1, 1), measure, 2.0, lambda: next(clock))
    assert len(rounds) == 2


def test_a_measurement_is_as_long_as_its_time() -> None:
    speed = Sample(prefill=0.01, decode=0.1)
    assert size_for(10.0, speed) == Size(700, 30)
    assert size_for(1e-9, speed) == Size(32, 4)
    assert size_for(1e9, speed, most_prompt=512) == Size(512, 128)


def test_each_profile_takes_what_is_best_for_it() -> None:
    stage = weights_stage(BOTH, 16, gpu=False)
    chosen = {"short": "as in the file", "long": "repacked"}
    settings = applied(stage, chosen, BOTH)
    assert not settings["short"].repack and settings["long"].repack
    assert groups(settings) == [("short",), ("long",)]
    threads = threads_stage((2, 4), 4, ("short", "long"))
    settings = applied(threads, {"prefill": "4", "decode": "2"}, settings)
    assert {(one.threads, one.threads_batch) for one in settings.values()} == {(2, 4)}


def test_a_gpu_adds_its_layers_to_the_candidates() -> None:
    names = weights_stage(BOTH, 16, gpu=True).candidates
    assert names["GPU"]["gpu_layers"] == 17
    assert [c["gpu_layers"] for name, c in names.items() if name.startswith("CPU")] == [0, 0]
    for candidate in names.values():
        EngineSettings(**candidate)


def test_micro_batches_are_those_that_the_prompt_can_tell_apart() -> None:
    assert list(batch_stage(200, ("short",)).candidates) == ["128", "512"]
    assert list(batch_stage(1024, ("short",)).candidates) == ["128", "256", "512", "1024"]


@pytest.mark.parametrize("default", ["on", "off"])
def test_attention_is_left_to_the_engine_where_nothing_else_is_faster(default: str) -> None:
    """Which chooses by the memory that is free; what it takes on this processor wins a tie."""
    stage = flash_stage(("long",), default)
    for times in ({"on": 1.0, "off": 1.0}, {"on": 1.0, "off": 2.0}, {"on": 2.0, "off": 1.0}):
        rounds = [{name: Sample(prefill=t, decode=t) for name, t in times.items()}] * 4
        best = winner(rounds, WORKS["long"], stage.goals[0].default)
        assert best == (
            default if times["on"] == times["off"] else min(times, key=lambda name: times[name])
        )
        settings = applied(stage, {"long": best}, {"long": EngineSettings()})["long"]
        assert settings.flash_attention == ("auto" if best == default else best)


def test_what_the_engine_takes_by_itself_is_known_of_the_loaded_model() -> None:
    with closing(Trials(demo_model())) as trials:
        trials.measure(EngineSettings(flash_attention="off"), Size(8, 4), False)
        assert trials.attention == "off"
        trials.measure(EngineSettings(flash_attention="on"), Size(8, 4), False)
        assert trials.attention == "on"


def test_no_kv_type_that_costs_accuracy_is_ever_chosen() -> None:
    assert kv_stage(64).goals == ()
    assert list(kv_stage(16).candidates) == ["f16"]  # the others hold 32 values a block
    stages = [
        flash_stage(("long",), "on"),
        batch_stage(600, ("long",)),
        weights_stage(BOTH, 2, True),
    ]
    assert all("kv_type" not in goal.sets for stage in stages for goal in stage.goals)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(range(256)) * 64)
    return path


FOUND: dict[Any, dict[str, Any]] = {
    "short": {"threads": 3, "repack": False, "flash_attention": "off"},
    "long": {"threads": 2, "threads_batch": 4, "batch": 1024, "ubatch": 1024},
}


def test_what_was_kept_is_found_again(model: Path) -> None:
    assert tuned_settings(model, "short") is None
    keep(model, {**FOUND, "seconds": 1})
    assert {name: tuned_settings(model, name) for name in profiles.PROFILES} == FOUND


def test_what_was_kept_for_another_machine_or_model_isnt_used(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(model, FOUND)
    here = profiles.machine()
    for key, other in (("devices", ["CPU: Z80"]), ("cores", 99), ("llama.cpp", "9.9")):
        with monkeypatch.context() as patch:
            patch.setattr(profiles, "machine", lambda changed={**here, key: other}: changed)
            assert tuned_settings(model, "short") is None
    model.write_bytes(b"another")
    assert tuned_settings(model, "short") is None


def test_forgetting_drops_this_model_alone(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"other")
    keep(model, FOUND)
    keep(other, FOUND)
    assert forget(model) == 1
    assert tuned_settings(model, "short") is None
    assert tuned_settings(other, "short") is not None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"null",
        b'{"short": []}',
        b'{"short": {"threads": true}}',
        b'{"short": {"threads": "2"}}',
        b'{"short": {"threads": 2.0}}',
        b'{"short": {"threads": 0}}',
        b'{"short": {"threads": 1000000000}}',
        b'{"short": {"batch": -1}}',
        b'{"short": {"repack": 1}}',
        b'{"short": {"gpu_layers": "all"}}',
        b'{"short": {"flash_attention": "perhaps"}}',
        b"[" * 100_000,
        b'{"short": {"threads": ' + b"9" * 5000 + b"}}",
        b" " * (2 << 20),
    ],
)
def test_a_damaged_or_forged_file_is_told_and_not_used(model: Path, content: bytes) -> None:
    keep(model, FOUND)
    kept_path(model).write_bytes(content)
    told: list[str] = []
    assert tuned_settings(model, "short", told.append) is None
    assert len(told) == 1 and "damaged" in told[0]


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'{"costs": []}',
        b'{"costs": {"1": 1}}',
        b'{"costs": {"1": 2, "2": 3}}',
        b'{"costs": {"1": 1, "2": NaN}}',
        b'{"costs": {"1": 1, "2": "x"}}',
        b'{"costs": {"1": 1, "-2": 3}}',
        b'{"costs": {"1": 1, "2": null}}',
    ],
)
def test_damaged_costs_of_drafts_are_not_used(model: Path, content: bytes) -> None:
    keep(model, {**FOUND, "costs": {1: 1.0, 4: 2.5}})
    assert tuned_costs(model) == Costs({1: 1.0, 4: 2.5})
    kept_path(model).write_bytes(content)
    assert tuned_costs(model) is None


def test_costs_that_were_learned_lie_beside_what_was_tuned(model: Path) -> None:
    told: list[str] = []
    learned = Costs({1: 1.0, 4: 2.5})
    keep(model, {profiles.COSTS: learned.known})
    assert tuned_costs(model) == learned
    assert tuned_settings(model, "short", told.append) is None and not told
    keep(model, FOUND)
    keep(model, {profiles.COSTS: learned.known})
    assert tuned_settings(model, "short") == FOUND["short"] and tuned_costs(model) == learned
    kept_path(model).write_bytes(b"{")
    keep(model, {profiles.COSTS: learned.known})
    assert tuned_costs(model) == learned


def test_keys_that_tuning_doesnt_set_are_left_out(model: Path) -> None:
    keep(model, FOUND)
    kept_path(model).write_text('{"short": {"threads": 2, "context": 5, "kv_type": "q4_0"}}')
    assert tuned_settings(model, "short") == {"threads": 2}


def test_threads_that_are_tried_on_hybrid_processors(tmp_path: Path) -> None:
    for number, core in enumerate([0, 0, 1, 1, 2, 3, 4]):  # two fast cores with SMT, three slow
        folder = tmp_path / "system" / "cpu" / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "core_id").write_text(f"{core}\n")
    assert resources._fast_cores(tmp_path) == 0
    (tmp_path / "cpu_core").mkdir()
    (tmp_path / "cpu_core" / "cpus").write_text("0-3\n")
    assert resources._fast_cores(tmp_path) == 2


def test_fast_cores_by_capacity_as_arm_has_it(tmp_path: Path) -> None:
    for number, capacity in enumerate([400, 400, 1024, 1024, 1024]):
        folder = tmp_path / "system" / "cpu" / f"cpu{number}"
        folder.mkdir(parents=True)
        (folder / "cpu_capacity").write_text(f"{capacity}\n")
    assert resources._fast_cores(tmp_path) == 3


def test_tuning_the_demo_measures_and_keeps() -> None:
    path = demo_model()
    titles: list[str] = []
    tuned = tune(path, 1.0, on_stage=titles.append)
    assert titles[0] == "weights"
    rows = {row.candidate: row for row in tuned.rows if row.stage == "weights"}
    assert set(rows) == {"repacked", "as in the file"}
    assert all(row.prefill > 0 and row.decode > 0 and row.load for row in rows.values())
    assert sorted(goal for row in rows.values() for goal in row.best_for) == ["long", "short"]
    keep(path, {**tuned.profiles, "costs": tuned.costs})
    assert tuned.costs[1] == 1 and max(tuned.costs) == LEARNED[-1]
    assert tuned_costs(path) == Costs(tuned.costs)
    for name in profiles.PROFILES:
        assert tuned_settings(path, name) == tuned.profiles[name]


def test_a_context_too_short_for_what_is_measured_is_told_first(tmp_path: Path) -> None:
    path = write_model(tmp_path / "short.gguf", context=128)
    with pytest.raises(UsageError, match="a context of 128 tokens is too short"):
        tune(path, 5.0)


def test_the_program_tunes_and_other_commands_use_it(store: Path) -> None:
    result = llamacli("tune", "demo", "--seconds", "0.5", "--json")
    told = json.loads(result.stdout)
    assert Path(told["kept"]).is_file() and Path(told["kept"]).parent == store / "tuned"
    path = demo_model()
    assert tuned_settings(path, "short") == told["profiles"]["short"]
    keep(path, {"short": {"threads": 3, "ubatch": 64}, "long": {}})
    settings = engine_settings(path, Asked())
    assert (settings.threads, settings.ubatch) == (3, 64)
    assert engine_settings(path, Asked(threads=1)).threads == 1
    assert engine_settings(path, Asked(tune=False)).ubatch == 512
    assert engine_settings(path, Asked(profile="long")).ubatch == 512
    llamacli("tune", "demo", "--forget")
    assert tuned_settings(path, "short") is None


def test_what_was_tuned_for_another_device_or_kv_cache_is_left_aside() -> None:
    tuned = {"gpu_layers": 17, "flash_attention": "off", "ubatch": 256}
    processor = resources.Processor(2, frozenset())
    on_cpu = chosen_settings(Asked(device="cpu"), tuned, processor)
    assert (on_cpu.gpu_layers, on_cpu.flash_attention, on_cpu.ubatch) == ("auto", "off", 256)
    small = chosen_settings(Asked(kv_type="q8_0"), tuned, processor)
    assert (small.gpu_layers, small.flash_attention, small.ubatch) == (17, "auto", 256)


def test_kv_types_are_shown_where_flash_attention_was_found_slower() -> None:
    for candidate in kv_stage(64).candidates.values():
        replace(EngineSettings(flash_attention="off"), **candidate)


def test_tuning_one_profile_leaves_the_other_as_it_was() -> None:
    path = demo_model()
    keep(path, {"long": {"threads": 7}})
    llamacli("tune", "demo", "--seconds", "0.2", "--profile", "short", "-q")
    assert tuned_settings(path, "long") == {"threads": 7}
    assert tuned_settings(path, "short")


def test_a_damaged_file_is_a_notice_and_the_answer_comes() -> None:
    path = demo_model()
    keep(path, FOUND)
    kept_path(path).write_text("{")
    result = llamacli("run", "-m", "demo", "-n", "1", "hello")
    assert "is damaged and not used" in result.stderr


def test_tune_shows_a_table_on_stdout_and_the_rest_on_stderr() -> None:
    result = llamacli("tune", "demo", "--seconds", "0.2")
    lines = result.stdout.splitlines()
    assert lines[0].split()[:2] == ["setting", "candidate"]
    assert any(line.startswith("short: ") for line in lines)
    assert "\x1b" not in result.stdout + result.stderr
    assert "kept in" in result.stderr


def test_what_was_tuned_is_kept_where_nobody_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took a minute."""

    def closed(*_: object) -> None:
        raise BrokenPipeError

    found = Tuning((), {"short": FOUND["short"]}, {1: 1.0}, 1.0)
    monkeypatch.setattr("llamacli.tune.tune", lambda *_, **options: found)
    monkeypatch.setattr("llamacli.commands.tune.print_table", closed)
    with pytest.raises(BrokenPipeError):
        command(model="demo", together=Together())
    assert tuned_settings(demo_model(), "short") == FOUND["short"]


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "1e9"])
def test_an_absurd_time_is_refused(seconds: str) -> None:
    assert "--seconds" in llamacli("tune", "demo", "--seconds", seconds, check=2).stderr
