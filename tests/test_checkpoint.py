"""Good checkpoints of every spelling, and each way a checkpoint can be wrong."""

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from convert import CheckpointError, QuantizationError, convert, system
from convert.checkpoint import open_checkpoint
from convert.config import LlamaConfig
from convert.safetensors import LocalFile
from convert.tensors import frequency_factors, inverse_frequencies
from llamacli.gguf import read_gguf
from tests.standins.checkpoint import shape_config, write_checkpoint, write_json

Make = Callable[..., Path]


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    write_json(path, value)


def edit_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a safetensors header, keeping the data as it is."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data[8 + length :])


def refusal(folder: Path) -> str:
    """The one line that a conversion of this checkpoint is refused with; no file is left."""
    before = set(folder.parent.iterdir())
    with pytest.raises(CheckpointError) as error:
        convert(folder, folder.parent / "out.gguf", "Q4_K_M")
    assert set(folder.parent.iterdir()) == before
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["8B-3", "70B-3", "8B-3.1"])
def test_real_configs(llama3_files: Path, name: str) -> None:
    folder = {
        "8B-3": "Meta-Llama-3-8B-Instruct",
        "70B-3": "Meta-Llama-3-70B-Instruct",
        "8B-3.1": "Meta-Llama-3.1-8B-Instruct",
    }[name]
    raw = json.loads((llama3_files / folder / "config.json").read_text())
    config = LlamaConfig.from_dict(raw)
    assert config.raw == raw
    assert config.head_dim == 128 and config.rope_theta == 500000.0
    assert config.num_hidden_layers == (80 if name == "70B-3" else 32)
    assert (config.rope_scaling is not None) == (name == "8B-3.1")
    assert config.eos_token_ids == ((128001, 128008, 128009) if name == "8B-3.1" else (128009,))


def test_spellings_of_rope_scaling_agree() -> None:
    new = shape_config("tiny")
    old = shape_config("tiny")
    old["rope_scaling"] = {**old["rope_scaling"], "type": "llama3"}
    del old["rope_scaling"]["rope_type"]
    newest = shape_config("tiny", dtype="bfloat16")
    newest["rope_parameters"] = {
        **newest.pop("rope_scaling"),
        "rope_theta": newest.pop("rope_theta"),
    }
    del newest["torch_dtype"]
    configs = [LlamaConfig.from_dict(raw) for raw in (new, old, newest)]
    assert configs[0] == configs[1] == configs[2]
    assert configs[0].rope_scaling is not None and configs[0].rope_scaling.kind == "llama3"


@pytest.mark.parametrize("head_dim", ["missing", None])
def test_head_dim_missing_or_null(head_dim: str | None) -> None:
    raw = shape_config("tiny", head_dim=None)
    if head_dim == "missing":
        del raw["head_dim"]
    assert LlamaConfig.from_dict(raw).head_dim == 64


def test_rope_factors_follow_the_reference() -> None:
    """Llama 3.1: the shortest wavelengths stay, the longest stretch by 8, between is smooth."""
    config = LlamaConfig.from_dict(shape_config("8b"))
    factors = frequency_factors(config)
    assert factors is not None and factors.dtype == np.float32 and factors.shape == (64,)
    wavelengths = 2 * math.pi / inverse_frequencies(config)
    assert (factors[wavelengths < 2048] == 1).all() and (factors[wavelengths > 8192] == 8).all()
    middle = (wavelengths >= 2048) & (wavelengths <= 8192)
    smooth = (8192 / wavelengths[middle] - 1) / 3
    scaled = (1 - smooth) / wavelengths[middle] / 8 + smooth / wavelengths[middle]
    assert np.allclose(1 / scaled / wavelengths[middle], factors[middle], rtol=1e-5)
    assert middle.any()
    assert frequency_factors(LlamaConfig.from_dict(shape_config("8b", rope_scaling=None))) is None


def test_odd_rope_settings_paint_no_warnings() -> None:
    """NumPy's go to stderr, as the program's own lines do."""
    scaling = {
        "rope_type": "llama3", "factor": 1e29, "low_freq_factor": 1e-30, "high_freq_factor": 1e29,
        "original_max_position_embeddings": 1 << 31,
    }  # fmt: skip
    raw = shape_config("tiny", rope_theta=1e-300, rope_scaling=scaling)
    with warnings.catch_warnings(action="error"):
        frequency_factors(LlamaConfig.from_dict(raw))


def test_linear_and_yarn_use_gguf_keys(checkpoint: Make, tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512,
               "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.2}  # fmt: skip
    convert(checkpoint(rope_scaling=scaling), tmp_path / "yarn.gguf", "F32")
    fields = gguf.GGUFReader(tmp_path / "yarn.gguf").fields
    values = {key: field.contents() for key, field in fields.items() if "rope.scaling" in key}
    assert values["llama.rope.scaling.type"] == "yarn"
    assert values["llama.rope.scaling.factor"] == 4.0
    assert values["llama.rope.scaling.original_context_length"] == 512
    convert(
        checkpoint(rope_scaling={"type": "linear", "factor": 2.0}), tmp_path / "linear.gguf", "F32"
    )
    reader = gguf.GGUFReader(tmp_path / "linear.gguf")
    assert reader.fields["llama.rope.scaling.type"].contents() == "linear"
    assert "rope_freqs.weight" not in {tensor.name for tensor in reader.tensors}


def test_merges_as_pairs_and_as_strings_agree(checkpoint: Make) -> None:
    folder = checkpoint()
    pairs = open_checkpoint(folder).tokenizer
    edit_json(
        folder / "tokenizer.json",
        lambda t: t["model"].update(merges=[" ".join(pair) for pair in t["model"]["merges"]]),
    )
    assert open_checkpoint(folder).tokenizer == pairs


def test_chat_template_file_wins(checkpoint: Make) -> None:
    folder = checkpoint()
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert open_checkpoint(folder).chat_template == "{{ messages }}"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    templates = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    assert open_checkpoint(folder).chat_templates == templates


def test_a_template_for_tools_is_kept_beside_the_other_one(checkpoint: Make) -> None:
    """As Hermes' fine-tunes of Llama 3 have them; the keys are those of llama.cpp's converter."""
    named = {"default": "{{ messages }}", "tool_use": "{{ tools }}", "rag": "{{ documents }}"}
    listed: list[Any] = [{"name": name, "template": text} for name, text in named.items()]
    listed += [{"name": []}, 7]
    folder = checkpoint()
    edit_json(folder / "tokenizer_config.json", lambda c: c.update(chat_template=listed))
    report = convert(folder, folder.with_suffix(".gguf"), "F16")
    metadata = read_gguf(report.path).metadata
    assert metadata["tokenizer.chat_template"] == named["default"]
    assert metadata["tokenizer.chat_template.tool_use"] == named["tool_use"]
    assert "tokenizer.chat_template.rag" not in metadata


def test_shards_give_the_bytes_of_one_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "one" / "m", shape_config("tiny"))
    write_checkpoint(tmp_path / "three" / "m", shape_config("tiny"), shards=3)
    for name in ("one", "three"):
        convert(tmp_path / name / "m", tmp_path / f"{name}.gguf", "Q4_K_M")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "three.gguf").read_bytes()


def test_metadata_of_llama_cpps_converter(checkpoint: Make, tmp_path: Path) -> None:
    folder = checkpoint()
    convert(folder, tmp_path / "out.gguf", "Q4_K_M")
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    raw = json.loads((folder / "config.json").read_text())
    expected = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "Checkpoint",
        "general.size_label": "1.7M",
        "general.file_type": int(gguf.LlamaFileType.MOSTLY_Q4_K_M),
        "general.quantization_version": 2,
        "general.sampling.temp": pytest.approx(0.6),
        "general.sampling.top_p": pytest.approx(0.9),
        "llama.vocab_size": 1024,
        "llama.block_count": 2,
        "llama.context_length": 131072,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 512,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 64,
        "llama.attention.value_length": 64,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "llama.rope.dimension_count": 64,
        "llama.rope.freq_base": 500000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.bos_token_id": 768,
        "tokenizer.ggml.eos_token_id": 777,
        "tokenizer.ggml.eot_token_id": 777,
        "tokenizer.ggml.eom_token_id": 776,
        "tokenizer.ggml.add_bos_token": True,
    }
    assert {key: fields[key].contents() for key in expected} == expected
    assert json.loads(fields["llamacli.llama_config"].contents()) == raw
    types = fields["tokenizer.ggml.token_type"].contents()
    assert types == [1] * 768 + [3] * 256
    assert "tokenizer.chat_template" in fields


def set_key(key: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", lambda c: c.update({key: value}))


def header(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    return lambda folder: edit_header(folder / "model.safetensors", change)


def tokenizer_json(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "tokenizer.json", change)


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


UP = "model.layers.1.mlp.up_proj.weight"

BAD = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "config not json": (write("config.json", b"{"), "config.json: it is not valid JSON"),
    "config a list": (write("config.json", b"[]"), "config.json: it holds no JSON object"),
    "deep config": (write("config.json", b"[" * 100000), "config.json: it is not valid JSON"),
    "another model": (set_key("architectures", ["MixtralForCausalLM"]), "MixtralForCausalLM"),
    "other activation": (set_key("hidden_act", "gelu"), "hidden_act 'gelu'"),
    "biases": (set_key("attention_bias", True), "q_proj.bias is missing"),
    "quantized": (set_key("quantization_config", {"bits": 4}), "quantized already"),
    "of GPTQ": (
        set_key("quantization_config", {"quant_method": "gptq"}),
        "quantized already (gptq); convert the full-precision checkpoint",
    ),
    "compressed": (set_key("compression_config", {"format": "x"}), "quantized already"),
    "of MLX": (set_key("quantization", {"bits": 4}), "quantized already"),
    "no architectures": (set_key("architectures", None), "it names no architectures"),
    "Meta's files": (
        lambda f: (f / "config.json").rename(f / "params.json") and None, "it has Meta's own files",
    ),
    "an adapter's tensor": (
        header(lambda h: h.update({"q_proj.lora_A.weight": h.pop(UP)})), "merged by --merge",
    ),
    "no output": (
        header(lambda h: h.update({"model.rotary_emb.inv_freq": h.pop("lm_head.weight")})),
        "lm_head.weight is missing in the safetensors files; where the embedding is the output",
    ),
    "no index": (
        lambda f: (f / "model.safetensors").rename(f / "model-00001-of-00002.safetensors") and None,
        "model-00001-of-00002.safetensors, and no model.safetensors.index.json that says",
    ),
    "8 bits": (
        header(lambda h: h[UP].update(dtype="F8_E4M3")), "convert the full-precision checkpoint",
    ),
    "heads": (set_key("num_key_value_heads", 3), "not a multiple"),
    "text for a number": (set_key("hidden_size", "256"), "hidden_size is '256'"),
    "true for a number": (set_key("hidden_size", True), "hidden_size is True"),
    "huge": (set_key("num_hidden_layers", 10**9), "num_hidden_layers is 1000000000"),
    "not finite": (
        set_key("rms_norm_eps", math.inf),
        "config.json: it is not valid JSON: Infinity is no finite number",
    ),
    "no number": (set_key("note", [{"deep": math.nan}]), "NaN is no finite number"),
    "beyond floats": (write("config.json", b'{"note": -1e999}'), "-1e999 is no finite number"),
    "sampling without end": (
        lambda f: edit_json(f / "generation_config.json", lambda g: g.update(note=-math.inf)),
        "generation_config.json: it is not valid JSON: -Infinity is no finite number",
    ),
    "eos beyond": (set_key("eos_token_id", [5000]), "eos_token_id 5000"),
    "rope type": (set_key("rope_scaling", {"rope_type": "longrope", "factor": 2.0}), "'longrope'"),
    "no room between": (
        set_key(
            "rope_scaling",
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
             "high_freq_factor": 1.00000001, "original_max_position_embeddings": 8192},
        ),
        "high_freq_factor 1.00000001 must be above low_freq_factor 1.0",
    ),
    "no rope type": (set_key("rope_scaling", {"factor": 2.0}), "names no rope_type"),
    "hidden size": (set_key("hidden_size", 512), "shape [1024, 256]"),
    "vocabulary": (set_key("vocab_size", 1030), "config.json makes it [1030, 256]"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "neither model.safetensors nor"),
    "truncated": (cut, "model.safetensors: truncated"),
    "empty shard": (write("model.safetensors", b""), "model.safetensors: truncated"),
    "header not json": (write("model.safetensors", b"\x04" + bytes(7) + b"nope"), "is not JSON"),
    "absurd header": (write("model.safetensors", b"\xff" * 8 + b"{}"), "absurd"),
    "missing tensor": (header(lambda h: h.pop(UP)), "gap"),
    "renamed tensor": (header(lambda h: h.update(other=h.pop(UP))), "unknown tensor other"),
    "wrong shape": (header(lambda h: h[UP].update(shape=[256, 512])), "config.json makes it"),
    "wrong dtype": (header(lambda h: h[UP].update(dtype="F32")), "not those of F32"),
    "other dtype": (header(lambda h: h[UP].update(dtype="I8")), "dtype 'I8'"),
    "negative shape": (header(lambda h: h[UP].update(shape=[-1, 2])), "shape [-1, 2]"),
    "many dimensions": (header(lambda h: h[UP].update(shape=[10**4000] * 300)), "a list of sizes"),
    "huge dimension": (header(lambda h: h[UP].update(shape=[10**4000])), "a list of sizes"),
    "no offsets": (header(lambda h: h[UP].pop("data_offsets")), "data_offsets None"),
    "beyond the end": (header(lambda h: h[UP].update(data_offsets=[0, 10**12])), "truncated"),
    "overlap": (
        header(lambda h: h[UP].update(data_offsets=[n - 64 for n in h[UP]["data_offsets"]])),
        "overlaps",
    ),
    "entry a number": (header(lambda h: h.update({UP: 1})), "not an object"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "AutoTokenizer write it"),
    "unigram": (tokenizer_json(lambda t: t["model"].update(type="Unigram")), "'Unigram'"),
    "normalizer": (tokenizer_json(lambda t: t.update(normalizer={"type": "NFC"})), "normalizer"),
    "decoder": (
        tokenizer_json(lambda t: t.update(decoder={"type": "Sequence", "decoders": 5})),
        "its decoder is 5",
    ),
    "endless template": (
        lambda f: edit_json(
            f / "tokenizer_config.json", lambda t: t.update(chat_template="a" * (5 << 20))
        ),
        "chat_template is not a text of at most 4194304 letters",
    ),
    "other pattern": (
        tokenizer_json(
            lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": r"\S+"})
        ),
        "Split \\S+ and then ByteLevel, which is none of llama.cpp's",
    ),
    "token gap": (tokenizer_json(lambda t: t["model"]["vocab"].pop("!")), "no token for '!'"),
    "token twice": (tokenizer_json(lambda t: t["model"]["vocab"].update({"!": 1})), "id to two"),
    "bad merge": (tokenizer_json(lambda t: t["model"]["merges"].insert(0, ["a"])), "merge 0"),
    "bos unknown": (
        lambda f: edit_json(f / "tokenizer_config.json", lambda t: t.update(bos_token="<s>")),
        "bos_token '<s>'",
    ),
    "sampling": (
        lambda f: edit_json(f / "generation_config.json", lambda g: g.update(temperature="hot")),
        "temperature is 'hot'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_bad_checkpoints_are_refused(checkpoint: Make, fault: str) -> None:
    folder = checkpoint()
    damage, words = BAD[fault]
    damage(folder)
    assert words in refusal(folder)


def test_pickles_are_not_read(checkpoint: Make) -> None:
    folder = checkpoint()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin; only safetensors" in refusal(folder)
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model.bin.index.json")
    assert "save_pretrained write it anew" in refusal(folder)


def test_a_file_in_place_of_a_folder_is_told_what_to_do_with(tmp_path: Path) -> None:
    for name, told in (("m.gguf", "converted already"), ("model.safetensors", "the folder that")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(CheckpointError, match=told):
            open_checkpoint(tmp_path / name)


def test_dynamic_scaling_is_none_within_the_context(checkpoint: Make) -> None:
    """transformers' inverse frequencies are the unscaled ones up to max_position_embeddings."""
    folder = checkpoint()
    edit_json(
        folder / "config.json", lambda c: c.update(rope_scaling={"type": "dynamic", "factor": 2.0})
    )
    opened = open_checkpoint(folder)
    assert opened.config.rope_scaling is None
    assert opened.notes == (
        "dynamic rope scaling begins beyond 131072 tokens, where the file's context ends",
    )
    convert(folder, folder.with_suffix(".gguf"), "F16")


def test_places_beyond_four_gib(tmp_path: Path) -> None:
    """As a shard of 70B has them: written and read by their offsets, in a file with a hole."""
    path, place = tmp_path / "large", (5 << 30) + 3
    path.touch()
    with path.open("r+b") as file:
        assert system.write_at(file.fileno(), memoryview(b"weights"), place) == 7
    large = LocalFile(path)
    assert large.size == place + 7
    assert large.read(place, 7) == b"weights"
    assert large.read(place - 2, 4) == b"\0\0we"


def test_missing_shard_is_named(checkpoint: Make) -> None:
    folder = checkpoint(shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors, which is missing" in refusal(folder)


def test_index_cannot_leave_the_folder(checkpoint: Make) -> None:
    folder = checkpoint(shards=2)
    edit_json(
        folder / "model.safetensors.index.json",
        lambda index: index["weight_map"].update({"lm_head.weight": "../../etc/passwd"}),
    )
    assert "not a file name" in refusal(folder)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_values_that_are_not_finite_are_counted(checkpoint: Make, dtype: str) -> None:
    folder = checkpoint(dtype=dtype)
    tensor = next(t for spec, t in open_checkpoint(folder).weights.items() if spec.source == UP)
    size = {"BF16": 2, "F16": 2, "F32": 4}[dtype]
    nan = {"BF16": b"\xc0\x7f", "F16": b"\x01\x7e", "F32": b"\x00\x00\xc0\x7f"}[dtype]
    infinity = {"BF16": b"\x80\xff", "F16": b"\x00\x7c", "F32": b"\x00\x00\x80\xff"}[dtype]
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(tensor.offset + 10 * size)
        file.write(nan + infinity)
        file.seek(tensor.offset + tensor.nbytes - size)
        file.write(nan)
    assert f"{UP} has 3 values that are NaN or infinite" in refusal(folder)


def test_values_too_large_for_the_type(checkpoint: Make, tmp_path: Path) -> None:
    folder = checkpoint()
    tensor = next(t for spec, t in open_checkpoint(folder).weights.items() if spec.source == UP)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(tensor.offset)
        file.write(b"\x80\x49")  # 2 ** 20 in BF16
    assert "too large for Q4_K" in refusal(folder)
    convert(folder, tmp_path / "wide.gguf", "BF16")


def test_mismatched_config_says_both_shapes(llama3_files: Path, tmp_path: Path) -> None:
    """A mistake seen in the wild: the weights of 70B beside the dimensions of 8B."""
    raw = json.loads((llama3_files / "config-mismatched-70B.json").read_text())
    real = json.loads((llama3_files / "Meta-Llama-3-70B-Instruct" / "config.json").read_text())
    folder = tmp_path / "70b"
    write_checkpoint(folder, {**real, "num_hidden_layers": 80}, sparse=True, shards=30)
    write_json(folder / "config.json", raw)
    message = refusal(folder)
    assert "[128256, 8192]" in message and "[128256, 4096]" in message


def test_unknown_quantization(checkpoint: Make, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="'Q3_K'; choose one of F32, BF16"):
        convert(checkpoint(), tmp_path / "out.gguf", "Q3_K")
