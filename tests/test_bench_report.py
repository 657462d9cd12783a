"""How comparisons are taken in turn, summed up and written into the page."""

import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from bench import overhead, quality, serve, served, sizes
from bench.compare import Outcome, Target, figure, in_turn, ratio, table
from bench.gpu import run_stage
from bench.report import markers, read_report, with_figures, write_report
from convert import convert, open_checkpoint, read_rows
from convert.config import LlamaConfig
from llamacli.prompt import Text
from tests.standins.checkpoint import shape_config, write_checkpoint

START, END = markers()

DECODE = Outcome(
    "Decoding",
    (figure("llamacli", "tokens a second", [30.0, 32.0, 31.0]),),
    (ratio("to llama-bench", [30.0, 32.0, 31.0], [30.0, 40.0, 31.0], Target(0.99)),),
    "A note.",
)
GROWTH = Outcome(
    "Growth",
    tuple(figure(f"llamacli, decode at {depth}", "tokens a second", [9.0]) for depth in (0, 512)),
    (ratio("growth", [1.2], [1.0], Target(1.05, most=True)),),
)


def test_the_parts_of_a_start_are_all_seen(demo: Path) -> None:
    """They are patched by their names, which no check of types knows."""
    spent = overhead.run_once(demo)
    assert min(spent.values()) > 0 and spent["whole"] > spent["beyond"] > spent["encode_messages"]


def test_each_run_begins_with_another_way() -> None:
    asked: list[str] = []
    times = in_turn({name: lambda name=name: asked.append(name) for name in "abc"}, 4)
    assert "".join(asked) == "abcbcacababc"
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_ratio_is_that_of_each_run() -> None:
    slowing = ratio("", [10.0, 20.0, 40.0], [5.0, 10.0, 20.0])
    assert (slowing.lowest, slowing.median, slowing.highest) == (2.0, 2.0, 2.0)


def test_a_table_has_ranges_and_says_which_targets_are_met() -> None:
    lines = table(DECODE).splitlines()
    assert "| llamacli | tokens a second | 31 | 30 | 32 |  |" in lines
    assert "| to llama-bench | ratio | 1 | 0.8 | 1 | ≥ 0.99, met |" in lines
    assert lines[-1] == "A note."
    assert "≤ 1.05, missed" in table(GROWTH)


def test_the_page_keeps_what_people_wrote() -> None:
    page = f"# Title\n\nabove\n\n{START}\nold\n{END}\n\nbelow\n"
    once = with_figures(page, "new")
    assert once == f"# Title\n\nabove\n\n{START}\n\nnew\n\n{END}\n\nbelow\n"
    assert with_figures(once, "new") == once


def test_a_page_without_the_markers_is_left_alone() -> None:
    with pytest.raises(SystemExit):
        with_figures("# Title\n", "new")


def test_figures_come_back_as_they_were_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "performance.md").write_text(f"{START}\n{END}\n")
    report = {"decode": DECODE, "growth": GROWTH}
    write_report(report, tmp_path)
    assert read_report(tmp_path / "performance.json") == report
    for name in ("ratios.png", "growth.png"):
        assert (tmp_path / name).stat().st_size < 100_000


def test_a_server_that_ends_at_once_is_told_with_the_end_of_its_log() -> None:
    ends = [sys.executable, "-S", "-c", "raise SystemExit('no such device')"]
    told = pytest.raises(SystemExit, match="no such device\npeer ended with code 1")
    with told, served.started("peer", lambda port: ends):
        pass


def test_a_gpus_stage_that_prints_nothing_has_failed_with_its_code() -> None:
    found = run_stage("none that is known", Path("none.gguf"), 1, 60)
    assert found == {"failed": "it ended with code 2; stderr says why"}


def test_a_servers_figures_say_which_targets_are_met() -> None:
    """The ratio is that of each run; a soak's figures have limits of their own."""
    loads = {"tokens/s": [9.0, 22.0, 40.0], "first p50": [2.0, 4.0, 8.0]}
    theirs = {"tokens/s": [10.0, 20.0, 32.0], "first p50": [1.0, 2.0, 4.0]}
    data = {
        "machine": "Measured on paper.",
        "load": {"1 client": {serve.OURS: loads, serve.PEER: theirs}},
        "soak": {"10 requests": {serve.OURS: {"failed": [0.0], "health s": [0.2]}}},
    }
    told = serve.figures(data)
    assert "| 1 client | 22 | 20 | 1.10, ≥ 1, met | 4 | 2 | 2.00, ≤ 1, missed |" in told
    assert "| 10 requests | 0 |  | ≤ 0, met | 0.2 |  | ≤ 0.1, missed |" in told


@pytest.mark.parametrize("path", sizes.PAGES, ids=lambda path: path.name)
def test_the_tables_of_sizes_are_those_of_the_plans(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == sizes.page(path)


@pytest.mark.parametrize("name", ["Q4_K_M", "Q6_K", "Q3_K_S"])
def test_a_file_is_as_large_as_its_plan(name: str, tmp_path: Path) -> None:
    """Its tensors, and what lies between them so that each begins at a whole 32 bytes."""
    config = shape_config("tiny")
    write_checkpoint(tmp_path / "c", config)
    convert(tmp_path / "c", tmp_path / "out.gguf", name)
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    planned = sizes.nbytes(name, LlamaConfig.from_dict(config))
    assert planned == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    rest = (tmp_path / "out.gguf").stat().st_size - reader.data_offset - planned
    assert 0 <= rest < 32 * len(reader.tensors)


def test_what_is_kept_of_the_quality_is_not_measured_again(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", shape_config("tiny", num_hidden_layers=1))
    text = "ab cd, efgh ij! " * 20
    model = quality.Model(
        "tiny", tmp_path / "c", text, [Text("a", text * 15)], 1, ("Q8_0", "IQ2_XXS")
    )
    first = {one.path.stem: quality.fields(one) for one in quality.measured(model, tmp_path, {}, 1)}
    assert list(first) == ["Q8_0", "=Q8_0", "Q8_0+", "=Q8_0+", "IQ2_XXS+", "=IQ2_XXS+"]
    assert first["=Q8_0"]["bytes"] <= first["Q8_0"]["bytes"]
    kept = {name: first[name] for name in first if name != "=Q8_0"}
    again = [one.path.stem for one in quality.measured(model, tmp_path, kept, 1)]
    assert again == ["=Q8_0"]
    lines = quality.figures({"tiny": {"title": "tiny", "files": first}}).splitlines()
    rows = [line.split()[1] for line in lines[4:] if line.startswith("| ")]
    assert lines[0] == "tiny:" and rows == ["Q8_0", "IQ2_XXS"]


def test_weights_are_moved_within_their_steps(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", shape_config("tiny", num_hidden_layers=1), shards=1)
    quality.moved(tmp_path / "c", tmp_path / "moved")
    before, after = (
        {spec.name: (spec, stored) for spec, stored in open_checkpoint(folder).weights.items()}
        for folder in (tmp_path / "c", tmp_path / "moved")
    )
    for name, (spec, stored) in before.items():
        old, new = (read_rows(s).reshape(-1) for s in (stored, after[name][1]))
        if len(spec.shape) == 1:
            assert np.array_equal(old, new)
            continue
        steps = np.ptp(old.reshape(-1, 32), axis=1, keepdims=True) / 15
        moved = np.abs(new - old).reshape(-1, 32)
        assert (moved <= 0.6 * steps + 0.01 * np.abs(old).reshape(-1, 32)).all()
        assert (moved > 0).mean() > 0.5
