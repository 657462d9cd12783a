"""llamacli show: what a model is, of files with holes for weights and of folders without any."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from convert import convert
from convert.config import LlamaConfig
from convert.metadata import CONFIG_KEY
from convert.tensors import frequency_factors, inverse_frequencies
from llamacli.errors import InvalidModelError
from llamacli.gguf.file import read_gguf
from llamacli.show import card, metadata, rope, structure, tensors
from llamacli.show.config import SAME, derive_config, find_config
from tests import terminal
from tests.standins.checkpoint import TEMPLATE, shape_config, write_json, write_small_files
from tests.standins.hollow import without_weights, write_hollow
from tests.standins.program import PROGRAM, run_program
from tests.standins.tiny import BLOCKS, CONTEXT, HEAD_SIZE, VOCABULARY, WIDTH, write_model
from tests.systems import needs_peak

Make = Callable[..., Path]
REAL = ("Meta-Llama-3-8B-Instruct", "Meta-Llama-3-70B-Instruct", "Meta-Llama-3.1-8B-Instruct")
PARTS = ("--config", "--structure", "--metadata", "--tensors", "--template", "--rope")
TINY_FACTORS = shape_config("tiny")["rope_scaling"]


def show(*arguments: str | Path, check: int = 0) -> subprocess.CompletedProcess[str]:
    child = run_program([*PROGRAM, "show", *arguments], text=True)
    assert child.returncode == check, child.stderr
    return child


def shown(*arguments: str | Path) -> Any:
    return json.loads(show(*arguments).stdout)


@pytest.fixture
def converted(checkpoint: Make, tmp_path: Path) -> Path:
    path = tmp_path / "tiny-Q8_0.gguf"
    convert(checkpoint(), path, "Q8_0")
    return path


def foreign(path: Path, change: Callable[[gguf.GGUFWriter], None] | None = None) -> Path:
    """A file that another tool made: no key of ours."""
    return write_model(path, change=change)


# --config


@pytest.mark.parametrize("name", REAL)
def test_config_is_that_of_the_checkpoint(name: str, real_models: Path, llama3_files: Path) -> None:
    expected = json.loads((llama3_files / name / "config.json").read_text())
    result = show(real_models / f"{name}.gguf", "--config")
    parsed = json.loads(result.stdout)
    assert parsed == expected and list(parsed) == list(expected) and result.stderr == ""
    assert find_config(real_models / name).config.raw == expected


def test_config_of_a_foreign_file_is_derived_and_says_so(tmp_path: Path) -> None:
    output = shown(foreign(tmp_path / "foreign.gguf"), "--config")
    assert output.pop("_derived") is True
    assert output == {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": VOCABULARY - 256,
        "eos_token_id": VOCABULARY - 256 + 9,
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": 128,
        "max_position_embeddings": CONTEXT,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": BLOCKS,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_scaling": None},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 512,
            }
        },
        {"tie_word_embeddings": True, "rms_norm_eps": 2e-06, "rope_theta": 123456.0},
        {"rope_scaling": {**TINY_FACTORS, "factor": 32.0}},
    ],
)
def test_what_is_derived_agrees_with_the_checkpoint(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    config = LlamaConfig.from_dict(shape_config("tiny", **changes))
    write_json(tmp_path / "config.json", config.raw)
    write_small_files(tmp_path, config.raw)
    derived = derive_config(read_gguf(write_hollow(without_weights(tmp_path), tmp_path / "a.gguf")))
    for name in (*SAME, "head_dim", "rms_norm_eps", "rope_theta", "tie_word_embeddings"):
        assert getattr(derived, name) == getattr(config, name), name
    assert derived.rope_scaling == config.rope_scaling


def test_scaling_that_no_config_explains_is_told(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        factors = np.linspace(1, 3, HEAD_SIZE // 2, dtype=np.float32)
        writer.add_tensor("rope_freqs.weight", factors)

    result = show(foreign(tmp_path / "odd.gguf", change), "--config")
    assert "rope_scaling" not in json.loads(result.stdout)
    assert "rope_freqs.weight" in result.stderr and "--rope" in result.stderr


def test_a_stored_config_that_contradicts_its_file_is_told(tmp_path: Path) -> None:
    other = shape_config("tiny")

    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_string(CONFIG_KEY, json.dumps(other))

    result = show(foreign(tmp_path / "odd.gguf", change), "--config")
    assert json.loads(result.stdout) == other
    assert f"says hidden_size 256, the rest of its metadata {WIDTH}" in result.stderr


@pytest.mark.parametrize(
    "stored",
    ["nonsense", "[]", "{}", "[" * 100_000, '{"architectures": ["X"]}', "9" * 10_000],
)
def test_a_stored_config_that_is_none_is_refused(stored: str, tmp_path: Path) -> None:
    path = foreign(tmp_path / "odd.gguf", lambda writer: writer.add_string(CONFIG_KEY, stored))
    with pytest.raises(InvalidModelError, match=CONFIG_KEY):
        find_config(read_gguf(path))


# --structure


@pytest.mark.parametrize("name", REAL)
def test_structure_is_what_pytorch_prints(
    name: str, real_models: Path, llama3_files: Path, tmp_path: Path
) -> None:
    expected = (llama3_files / name / "structure.txt").read_text().rstrip("\n") + "\n"
    (tmp_path / "config.json").write_bytes((llama3_files / name / "config.json").read_bytes())
    assert show(tmp_path, "--structure").stdout == expected  # config.json alone
    assert show(real_models / f"{name}.gguf", "--structure").stdout == expected


def test_structure_as_json(converted: Path) -> None:
    tree = shown(converted, "--structure", "--json")
    layers = tree["children"]["model"]["children"]["layers"]["children"]
    assert layers["0-1"]["count"] == 2
    query = layers["0-1"]["children"]["self_attn"]["children"]["q_proj"]
    assert query == {"type": "Linear", "arguments": "in_features=256, out_features=256, bias=False"}


def test_structure_of_one_layer_and_a_padding_token() -> None:
    raw = shape_config("tiny", num_hidden_layers=1, pad_token_id=-1)
    lines = structure.render(structure.module_tree(LlamaConfig.from_dict(raw))).splitlines()
    assert lines[2] == "    (embed_tokens): Embedding(1024, 256, padding_idx=1023)"
    assert lines[4] == "      (0): LlamaDecoderLayer("


def test_structure_of_a_model_with_biases() -> None:
    raw = shape_config("tiny", attention_bias=True, mlp_bias=True)
    text = structure.render(structure.module_tree(LlamaConfig.from_dict(raw)))
    assert text.count("bias=True") == 7
    assert "(lm_head): Linear(in_features=256, out_features=1024, bias=False)" in text


# --metadata, --tensors, --template


def test_metadata(converted: Path, checkpoint: Make) -> None:
    output = shown(converted, "--metadata", "--json")
    assert output["llama.block_count"] == 2 and output["tokenizer.ggml.add_bos_token"] is True
    assert output["tokenizer.ggml.tokens"]["length"] == 1024
    assert len(output["tokenizer.ggml.tokens"]["first"]) == 3
    reader = gguf.GGUFReader(converted)
    assert set(output) == {key for key in reader.fields if not key.startswith("GGUF.")}
    rows = dict(
        line.split(maxsplit=1) for line in show(converted, "--metadata").stdout.splitlines()
    )
    assert len(rows) == len(output) and rows["llama.context_length"] == "131072"
    assert rows["tokenizer.ggml.tokens"].startswith("1024 values: ")
    assert rows["llamacli.llama_config"].endswith("characters)")


def test_metadata_of_a_folder(checkpoint: Make) -> None:
    folder = checkpoint()
    output = shown(folder, "--metadata", "--json")
    assert output["generation_config.json"]["temperature"] == 0.6
    assert output["config.json"] == json.loads((folder / "config.json").read_text())
    assert "generation_config.json: temperature" in show(folder, "--metadata").stdout


def test_tensors(converted: Path, checkpoint: Make) -> None:
    output = shown(converted, "--tensors", "--json")
    expected = {tensor.name: tensor for tensor in gguf.GGUFReader(converted).tensors}
    assert [row["name"] for row in output] == list(expected)
    for row in output:
        tensor = expected[row["name"]]
        assert row["shape"] == tensor.shape.tolist()[::-1]
        assert (row["type"], row["bytes"]) == (tensor.tensor_type.name, tensor.n_bytes)
    assert sum(row["share"] for row in output) == pytest.approx(1)
    lines = show(converted, "--tensors").stdout.splitlines()
    assert lines[0].split() == ["name", "shape", "type", "bytes", "share"]
    first = output[0]
    assert lines[1].split()[:4] == [first["name"], "1024x256", "Q8_0", str(first["bytes"])]
    assert lines[-1].split()[:2] == [str(len(output)), "tensors"]


def test_tensors_of_a_folder_and_of_one_without_weights(checkpoint: Make) -> None:
    folder = checkpoint(shards=2)
    output = shown(folder, "--tensors", "--json")
    assert {row["type"] for row in output} == {"BF16"} and len(output) == 21
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    assert "neither model.safetensors" in show(folder, "--tensors", check=3).stderr


def test_template(converted: Path, checkpoint: Make, tmp_path: Path) -> None:
    for source in (converted, checkpoint()):
        assert show(source, "--template").stdout.rstrip("\n") == TEMPLATE.rstrip("\n")
    assert shown(converted, "--template", "--json") == {"template": TEMPLATE, "own": True}
    bare = foreign(tmp_path / "bare.gguf")
    result = show(bare, "--template")
    assert "no template of its own" in result.stderr and "start_header_id" in result.stdout
    assert shown(bare, "--template", "--json")["own"] is False


# --rope


def test_rope_of_llama_3_1(real_models: Path) -> None:
    name = "Meta-Llama-3.1-8B-Instruct"
    output = shown(real_models / f"{name}.gguf", "--rope", "--json")
    assert output == shown(real_models / name, "--rope", "--json")
    rows = output["frequencies"]
    assert output["rope_theta"] == 500000.0 and output["head_dim"] == 128 and len(rows) == 64
    config = find_config(real_models / name).config
    assert [row["frequency"] for row in rows] == pytest.approx(inverse_frequencies(config).tolist())
    factors = frequency_factors(config)
    assert factors is not None
    for row, factor in zip(rows, factors.tolist(), strict=True):
        assert row["factor"] == pytest.approx(factor)
        assert row["scaled_frequency"] * row["factor"] == pytest.approx(row["frequency"])
        assert row["scaled_wavelength"] * row["scaled_frequency"] == pytest.approx(2 * np.pi)


def test_rope_as_a_table_and_a_plot(converted: Path) -> None:
    text = show(converted, "--rope").stdout
    table, _, plot = text.partition("\n\n")
    assert table.splitlines()[0].split()[0] == "pair" and len(table.splitlines()) == 33
    assert "before" in plot and "after" in plot and "1e-03" in plot and "\x1b" not in text
    assert all(len(line) < 100 for line in plot.splitlines())


def test_rope_that_is_not_scaled(tmp_path: Path) -> None:
    path = foreign(tmp_path / "plain.gguf")
    assert {row["factor"] for row in shown(path, "--rope", "--json")["frequencies"]} == {1.0}
    assert "after" not in show(path, "--rope").stdout


def test_rope_is_shown_as_the_file_runs(tmp_path: Path) -> None:
    """The tensor's factors, whatever the config says of them."""
    factors = np.linspace(1, 3, HEAD_SIZE // 2, dtype=np.float32)

    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", factors)

    scaling = rope.find_rope(read_gguf(foreign(tmp_path / "odd.gguf", change)))
    assert scaling.factors == pytest.approx(factors.tolist())


def test_scaling_is_named_where_the_stored_config_explains_it(tmp_path: Path) -> None:
    """Meta's kind, from another length than Meta's 8,192."""
    raw = shape_config("tiny")
    raw["rope_scaling"] = {**raw["rope_scaling"], "original_max_position_embeddings": 256}
    write_json(tmp_path / "config.json", raw)
    write_small_files(tmp_path, raw)
    file = read_gguf(write_hollow(without_weights(tmp_path), tmp_path / "a.gguf"))
    scaling, expected = rope.find_rope(file), rope.find_rope(tmp_path)
    assert scaling.scaling == expected.scaling == "llama3"
    assert scaling.factors == pytest.approx(expected.factors)


def test_yarn_stretches_slow_pairs_and_leaves_fast_ones() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
    scaling_read = rope.rope_of(LlamaConfig.from_dict(shape_config("8b", rope_scaling=scaling)))
    turns = [4096 * frequency / (2 * np.pi) for frequency in scaling_read.frequencies]
    for turn, factor in zip(turns, scaling_read.factors, strict=True):
        if turn > 50:
            assert factor == 1
        if turn < 0.5:
            assert factor == pytest.approx(4)
    assert list(scaling_read.factors) == sorted(scaling_read.factors)


@pytest.mark.parametrize("turns", [1e-320, 1e29])
def test_yarn_of_absurd_bounds_is_shown(turns: float) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "beta_fast": turns, "beta_slow": turns}
    found = rope.rope_of(LlamaConfig.from_dict(shape_config("8b", rope_scaling=scaling)))
    assert set(found.factors) <= {1.0, 4.0}


@pytest.mark.parametrize("values", [[0.0] * 8, [np.nan] * 8, [1.0] * 4, [1e30] * 8])
def test_hostile_rope_factors_are_refused(values: list[float], tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", np.array(values, dtype=np.float32))

    path = foreign(tmp_path / "odd.gguf", change)
    assert "rope_freqs.weight has" in show(path, "--rope", check=3).stderr


def test_absurd_heads_are_refused_before_they_swell(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_key_length(1 << 24)
        writer.add_tensor("rope_freqs.weight", np.ones(8, dtype=np.float32))

    file = read_gguf(foreign(tmp_path / "odd.gguf", change))
    with pytest.raises(InvalidModelError, match="16777216"):
        rope.find_rope(file)
    assert find_config(file).config.rope_scaling is None
    assert card.describe(file)["rope_theta"] is None


# The card


def test_card_of_a_converted_file(converted: Path) -> None:
    facts = shown(converted, "--json")
    parameters = 2 * 1024 * 256 + 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 512 * 256 + 512) + 256
    expected = {
        "format": "GGUF version 3", "architecture": "llama", "parameters": parameters,
        "quantization": "Q8_0", "bytes": converted.stat().st_size, "context": 131072, "layers": 2,
        "hidden_size": 256, "feed_forward_size": 512, "heads": 4, "kv_heads": 2, "head_dim": 64,
        "vocabulary": 1024, "tied": False, "config": "whole", "runs": "yes", "has_template": True,
        "rope_theta": 500000.0, "rope_scaling": "llama3", "rope_factor": 8.0,
        "kv_cache_bytes_per_token": 2 * 2 * 2 * 64 * 2,
    }  # fmt: skip
    assert expected.items() <= facts.items()
    lines = dict(line.split("  ", 1) for line in show(converted).stdout.splitlines())
    assert lines["quantization"].strip() == "Q8_0" and lines["layers"].strip() == "2"


def test_card_of_a_folder_with_and_without_weights(checkpoint: Make) -> None:
    folder = checkpoint()
    with_weights = shown(folder, "--json")
    (folder / "model.safetensors").unlink()
    without = shown(folder, "--json")
    assert with_weights["bytes"] == 2 * with_weights["parameters"] and without["bytes"] is None
    assert with_weights["parameters"] == without["parameters"]
    assert without["format"].endswith("without its weights")


def test_a_model_of_another_kind_has_a_card_that_says_so(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "qwen2")
    writer.add_block_count(1)
    writer.add_tensor("x", np.zeros(32, dtype=np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file):
        write()
    writer.write_tensors_to_file()
    writer.close()
    path = tmp_path / "other.gguf"
    facts = shown(path, "--json")
    assert facts["architecture"] == "qwen2" and facts["runs"].startswith("no: ")
    for part in ("--config", "--structure", "--rope"):
        assert "qwen2" in show(path, part, check=3).stderr
    assert shown(path, "--tensors", "--json")[0]["name"] == "x"


def test_names_are_known_as_elsewhere(converted: Path, store: Path, tmp_path: Path) -> None:
    known = shown("llama-3.1-8b", "--json")
    assert known["source"] == "meta-llama/Meta-Llama-3.1-8B-Instruct" and known["stored"] is False
    assert "llamacli convert llama-3.1-8b" in show("Llama-3.1-8B").stdout
    assert "llamacli convert llama-3.1-8b" in show("llama-3.1-8b", "--rope", check=4).stderr
    store.mkdir()
    (store / "llama-3.1-8b-Q8_0.gguf").symlink_to(converted)
    assert shown("llama-3.1-8b", "--json")["layers"] == 2
    assert "did you mean" in show("llama-3.1-8bb", check=4).stderr


def test_wrong_use_is_one_line(converted: Path, tmp_path: Path) -> None:
    for arguments, code, words in (
        ((converted, "--config", "--rope"), 2, "--config and --rope exclude each other"),
        ((tmp_path / "no.gguf",), 4, "no.gguf"),
        ((tmp_path,), 3, "no config.json"),
        ((__file__,), 3, "not a GGUF file"),
        ((), 2, "model"),
    ):
        told = show(*arguments, check=code)
        assert told.stdout == "" and len(told.stderr.splitlines()) == 1 and words in told.stderr


# Terminals, and what strangers write


def on_terminal(*arguments: str | Path, **env: str) -> str:
    told = {"TERM": "xterm-256color", "COLUMNS": "200", **env}
    seen, child = terminal.on_terminal([*PROGRAM, "show", *arguments], **told)
    assert child.returncode == 0
    return seen.decode(terminal.ENCODING)


HARM = "\x1b]0;title\x07\x1b[2J\u202ereversed"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_license(HARM)
        writer.add_string(f"key{HARM}", f"[bold]{HARM}\n[/nothing]")
        writer.add_chat_template(f"{HARM}{{{{ x }}}}")

    return foreign(tmp_path / "hostile[red].gguf", change)


@pytest.mark.parametrize("part", ["", *PARTS])
def test_nothing_in_a_file_drives_a_terminal(part: str, hostile: Path) -> None:
    arguments = [part] if part else []
    seen = on_terminal(hostile, *arguments, NO_COLOR="1")
    assert "\x1b]0" not in seen and "\x1b[2J" not in seen and "\x07" not in seen
    if not part:
        assert "[red]" in seen and "\u202e" not in seen
        plain = on_terminal(hostile, TERM="dumb")
        assert "\x1b" not in plain and "\\x1b]0;title" in plain


def test_pure_functions_print_nothing_that_moves_lines(hostile: Path) -> None:
    file = read_gguf(hostile)
    rows = metadata.table(metadata.find_metadata(file)).splitlines()
    assert len(rows) == len(file.metadata)
    assert all(value.isprintable() for _, value in card.lines(card.describe(file)))
    assert len(tensors.table(tensors.find_tensors(file)).splitlines()) == len(file.tensors) + 2


@needs_peak
def test_no_weight_is_read(real_models: Path) -> None:
    """Reading 42 GB, holes or not, would show in the resident memory."""
    script = (
        "import sys; from llamacli.cli import main\n"
        "from llamacli.tune.measure import peak_resident\n"
        "try: main(['show', sys.argv[1], *sys.argv[2:]])\n"
        "finally: print(peak_resident(), file=sys.stderr)"
    )
    path = real_models / "Meta-Llama-3-70B-Instruct.gguf"
    for part in ([], ["--tensors"], ["--structure"]):
        command = [sys.executable, "-c", script, path, *part]
        child = subprocess.run(command, capture_output=True, text=True, check=True)
        assert int(child.stderr) < 300 << 20
