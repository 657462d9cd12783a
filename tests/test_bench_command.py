"""llamacli bench: figures of the real program on the demo; how fast it is decides nothing."""

import json

from tests.test_cli import llamacli, one_line

SMALL = ("--runs", "2", "--prompt", "16", "--answer", "4")


def test_json_has_every_figure_with_its_range() -> None:
    result = llamacli("bench", "demo", *SMALL, "--depth", "64", "--depth", "0", "--json")
    told = json.loads(result.stdout)
    assert [row["depth"] for row in told["rates"]] == [0, 64]
    spreads = [told["load_seconds"], told["first_token_seconds"]]
    spreads += [row[kind] for row in told["rates"] for kind in ("prefill", "decode")]
    for one in spreads:
        assert 0 < one["lowest"] <= one["median"] <= one["highest"]
    assert told["first_token_seconds"]["median"] > told["load_seconds"]["median"]
    assert told["peak_memory_bytes"] > 10 << 20
    assert told["settings"]["context"] == 64 + 16


def test_a_table_of_depths_comes_on_stdout() -> None:
    result = llamacli("bench", "demo", *SMALL, "--depth", "0")
    lines = result.stdout.splitlines()
    assert lines[0].split()[:2] == ["depth", "prefill/s"]
    assert lines[1].split()[0] == "0"
    assert [line.split(":")[0] for line in lines[2:]] == [
        "load", "first token of a prompt of 16", "peak memory",
    ]  # fmt: skip
    assert "\x1b" not in result.stdout


def test_depths_beyond_the_models_context_are_refused() -> None:
    assert "--depth" in one_line(llamacli("bench", "demo", "--depth", "9000", "-q", check=2))


def test_no_measurement_is_refused() -> None:
    assert "--runs" in one_line(llamacli("bench", "demo", "--runs", "0", "-q", check=2))


def test_flags_set_how_it_runs() -> None:
    result = llamacli("bench", "demo", *SMALL, "--depth", "0", "--threads", "1", "--json")
    assert json.loads(result.stdout)["settings"]["threads"] == 1
