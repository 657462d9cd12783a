"""LoRA adapters: what PEFT saves becomes llama.cpp's kind of file, or is merged into its base."""

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from convert import (
    CheckpointError,
    Progress,
    QuantizationError,
    TargetError,
    convert,
    fit,
    merged,
    open_adapter,
    open_checkpoint,
    read_base_config,
    read_config,
    write_adapter,
    write_gguf,
)
from convert.adapter_config import read_adapter_config
from convert.config import QUANTIZED
from convert.quantization import named_quantization
from tests.standins import adapter as standin
from tests.standins.adapter import LINEAR, adapter_config, read_safetensors
from tests.standins.checkpoint import shape_config, write_checkpoint, write_json

SMALL = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "vocab_size": 600}


def config(**changes: Any) -> dict[str, Any]:
    return shape_config("tiny", **SMALL, **changes)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "base", config(), dtype="F32")
    return tmp_path / "base"


def written(base: Path, folder: Path, quant: str = "F32") -> dict[str, gguf.ReaderTensor]:
    shape = read_config(base)
    target = folder.with_suffix(".gguf")
    write_adapter(open_adapter(folder, shape), shape, target, quant, force=True)
    return {tensor.name: tensor for tensor in gguf.GGUFReader(target).tensors}


def field(path: Path, key: str) -> Any:
    return gguf.GGUFReader(path).fields[key].contents()


def test_the_file_has_the_pairs_by_their_gguf_names(base: Path, tmp_path: Path) -> None:
    folder = standin.write_adapter(tmp_path / "lora", config())
    tensors = written(base, folder)
    given = read_safetensors(folder / "adapter_model.safetensors")
    assert len(tensors) == len(given) == 2 * 2 * len(LINEAR)
    name = "base_model.model.model.layers.1.self_attn"
    assert np.array_equal(
        tensors["blk.1.attn_v.weight.lora_b"].data, given[f"{name}.v_proj.lora_B.weight"]
    )
    assert np.array_equal(
        tensors["blk.1.attn_q.weight.lora_a"].data, given[f"{name}.q_proj.lora_A.weight"]
    )
    b = given[f"{name}.q_proj.lora_B.weight"]
    half = np.concatenate([b[:16].reshape(2, 8, -1).swapaxes(0, 1).reshape(16, -1)])
    assert np.array_equal(tensors["blk.1.attn_q.weight.lora_b"].data[:16], half)
    path = folder.with_suffix(".gguf")
    for key, value in {
        "general.type": "adapter",
        "general.architecture": "llama",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
        "general.name": "lora",
        "general.base_model.0.name": "some/base",
    }.items():
        assert field(path, key) == value
    assert gguf.GGUFReader(path).fields["adapter.lora.alpha"].types == [gguf.GGUFValueType.FLOAT32]


@pytest.mark.parametrize("quant", ["F16", "BF16", "bf16"])
def test_halves(quant: str, base: Path, tmp_path: Path) -> None:
    folder = standin.write_adapter(tmp_path / "lora", config(), dtype="BF16")
    tensors = written(base, folder, quant)
    tensor = tensors["blk.0.ffn_down.weight.lora_a"]
    assert tensor.tensor_type.name == quant.upper()
    given = read_safetensors(folder / "adapter_model.safetensors")
    values = gguf.dequantize(tensor.data, tensor.tensor_type)
    expected = given["base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"]
    assert np.allclose(values, expected, rtol=1e-3, atol=1e-6)


def effective(tensors: dict[str, gguf.ReaderTensor], path: Path, name: str) -> np.ndarray:
    """What llama.cpp adds to a matrix: alpha / rank · B·A."""
    a, b = (tensors[f"{name}.lora_{letter}"].data for letter in "ab")
    return field(path, "adapter.lora.alpha") / a.shape[0] * (b @ a)


@pytest.mark.parametrize(
    ("changes", "ranks", "scales"),
    [
        ({}, {}, {"": 2.0}),
        ({"fan_in_fan_out": True}, {}, {"": 2.0}),  # as PEFT has it for torch.nn.Linear
        ({"use_rslora": True}, {}, {"": 4.0}),
        ({"rank_pattern": {"v_proj": 2}}, {"v_proj": 2}, {"v_proj": 4.0, "": 2.0}),
        (
            {"rank_pattern": {"v_proj": 2}, "use_rslora": True},
            {"v_proj": 2},
            {"v_proj": 8 / math.sqrt(2), "": 4.0},
        ),
        ({"alpha_pattern": {r"layers\.1\..*v_proj": 1}}, {}, {"1.self_attn.v_proj": 0.25, "": 2.0}),
        (
            {"alpha_pattern": {"model.layers.0.mlp.up_proj": 3.5}},
            {},
            {"0.mlp.up_proj": 0.875, "": 2.0},
        ),
    ],
)
def test_scales(
    changes: dict[str, Any],
    ranks: dict[str, int],
    scales: dict[str, float],
    base: Path,
    tmp_path: Path,
) -> None:
    """Both ways that an adapter can be applied come to the formula of PEFT."""
    folder = standin.write_adapter(tmp_path / "lora", config(), ranks=ranks, **changes)
    tensors = written(base, folder)
    standin.merge(base, folder, tmp_path / "expected", scales)
    expected = read_safetensors(tmp_path / "expected" / "model.safetensors")
    weights = read_safetensors(base / "model.safetensors")
    for module, name in (
        ("layers.0.mlp.up_proj", "blk.0.ffn_up"),
        ("layers.1.mlp.down_proj", "blk.1.ffn_down"),
        ("layers.1.self_attn.v_proj", "blk.1.attn_v"),
    ):
        source = f"model.{module}.weight"
        added = effective(tensors, folder.with_suffix(".gguf"), f"{name}.weight")
        assert np.allclose(weights[source] + added, expected[source], atol=1e-6)
    merge_into(base, folder, tmp_path / "merged.gguf")
    convert(tmp_path / "expected", tmp_path / "expected.gguf", "F32")
    assert_close(tmp_path / "merged.gguf", tmp_path / "expected.gguf")


def merge_into(
    base: Path, folder: Path, target: Path, scale: float = 1.0, quant: str = "F32"
) -> Path:
    shape = read_config(base)
    checkpoint = merged(open_checkpoint(base), [(open_adapter(folder, shape), scale)])
    write_gguf(checkpoint, target, named_quantization(quant), force=True, threads=1)
    return target


def assert_close(one: Path, other: Path) -> None:
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(one).tensors}
    expected = {tensor.name: tensor for tensor in gguf.GGUFReader(other).tensors}
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert np.allclose(tensor.data, expected[name].data, atol=2e-6), name


def test_merging_in_pieces(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece gets its own rows, also of heads that are reordered and of the embedding."""
    folder = standin.write_adapter(
        tmp_path / "lora", config(), targets=[*LINEAR, "embed_tokens", "lm_head"]
    )
    monkeypatch.setattr("convert.pieces.PIECE", 64 * 16)
    merge_into(base, folder, tmp_path / "merged.gguf", 0.5)
    standin.merge(base, folder, tmp_path / "expected", {"": 2.0}, times=0.5)
    convert(tmp_path / "expected", tmp_path / "expected.gguf", "F32")
    assert_close(tmp_path / "merged.gguf", tmp_path / "expected.gguf")
    assert field(tmp_path / "merged.gguf", "llamacli.merged_adapters") == ["lora:0.5"]


@pytest.mark.parametrize("quant", ["Q8_0", "BF16", "F16"])
def test_a_merge_is_quantized_as_the_merged_checkpoint_is(
    quant: str, base: Path, tmp_path: Path
) -> None:
    folder = standin.write_adapter(tmp_path / "lora", config())
    merge_into(base, folder, tmp_path / "merged.gguf", quant=quant)
    standin.merge(base, folder, tmp_path / "expected", {"": 2.0})
    convert(tmp_path / "expected", tmp_path / "expected.gguf", quant)
    expected = {t.name: t for t in gguf.GGUFReader(tmp_path / "expected.gguf").tensors}
    for tensor in gguf.GGUFReader(tmp_path / "merged.gguf").tensors:
        same = expected[tensor.name]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert tensor.tensor_type == same.tensor_type
        assert np.allclose(values, gguf.dequantize(same.data, same.tensor_type), atol=0.01)


def test_a_merge_that_was_cut_short_is_gone_on_with(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same bytes; with another scale it begins anew."""
    monkeypatch.setattr("convert.pieces.PIECE", 64 * 16)
    folder = standin.write_adapter(tmp_path / "lora", config())
    adapter, target = open_adapter(folder, read_config(base)), tmp_path / "merged.gguf"

    def write(target: Path, scale: float, most: float = 1.0) -> list[str]:
        told: list[str] = []

        def progress(now: Progress) -> None:
            if now.nbytes > most * now.total_nbytes:
                raise KeyboardInterrupt

        checkpoint = merged(open_checkpoint(base), [(adapter, scale)])
        write_gguf(
            checkpoint, target, named_quantization("Q8_0"), threads=1, progress=progress,
            notice=told.append, origin="some/base@1",
        )  # fmt: skip
        return told

    assert write(tmp_path / "whole.gguf", 0.5) == []
    for scale, told in ((0.5, "going on from what the last call has done"), (1.0, "anew")):
        with pytest.raises(KeyboardInterrupt):
            write(target, 0.5, most=0.5)
        assert not target.exists()
        (line,) = write(target, scale)
        assert told in line
        same = target.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
        assert same == (scale == 0.5)
        target.unlink()


def test_a_mixture_for_a_size_is_found_for_what_the_merge_makes(base: Path, tmp_path: Path) -> None:
    folder = standin.write_adapter(tmp_path / "lora", config())
    standin.merge(base, folder, tmp_path / "expected", {"": 2.0})
    adapter = open_adapter(folder, read_config(base))
    size = convert(base, tmp_path / "size.gguf", "Q5_0").target_nbytes
    ours = fit(merged(open_checkpoint(base), [(adapter, 1.0)]), size, "x", threads=1)
    theirs = fit(open_checkpoint(tmp_path / "expected"), size, "x", threads=1)
    plain = fit(open_checkpoint(base), size, "x", threads=1)
    # The sums' last bits differ, and so may a choice between types that cost all but the same, and
    # what a column counts, by a step.
    pairs = [*zip(ours.matrices, theirs.matrices, strict=True)]
    alike = [(one.error, other.error) for one, other in pairs if one.type == other.type]
    assert len(alike) > len(pairs) // 2 and all(a == pytest.approx(b, rel=0.01) for a, b in alike)
    costs = [sum(one.cost for one in made.matrices) for made in (ours, theirs)]
    assert costs[0] == pytest.approx(costs[1], rel=0.02)
    errors, before = ([one.error for one in made.matrices] for made in (ours, plain))
    assert not np.allclose(errors, before, rtol=1e-3)


def test_whole_tensors_and_a_new_vocabulary_are_merged_and_not_held(
    base: Path, tmp_path: Path
) -> None:
    rows = 608
    saved = {
        "model.embed_tokens.weight": (rows, 64),
        "lm_head.modules_to_save.weight": (rows, 64),  # of one matrix PEFT writes all three
        "lm_head.original_module.weight": (rows, 64),
        "lm_head.weight": (rows, 64),
        "model.norm.weight": (64,),
    }
    folder = standin.write_adapter(tmp_path / "lora", config(), saved=saved)
    with pytest.raises(CheckpointError, match=r"resized vocabulary .*convert BASE --merge ADAPTER"):
        written(base, folder)
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        merge_into(base, folder, tmp_path / "merged.gguf")
    grown = json.loads((base / "tokenizer.json").read_text())
    for i in range(600, rows):
        grown["added_tokens"].append(
            {**grown["added_tokens"][0], "id": i, "content": f"<|new{i}|>"}
        )
    write_json(folder / "tokenizer.json", grown)
    # The base's template and tokenizer had one already: that is told of the base alone.
    write_json(base / "tokenizer.json", grown)
    (base / "chat_template.jinja").write_text("<|new607|>{{ messages }}")
    opened, adapter = open_checkpoint(base), open_adapter(folder, read_config(base))
    assert ["<|new607|>" in note for note in opened.notes] == [True]
    assert merged(opened, [(adapter, 1.0)]).notes == ()
    merge_into(base, folder, tmp_path / "merged.gguf")
    reader = gguf.GGUFReader(tmp_path / "merged.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    given = read_safetensors(folder / "adapter_model.safetensors")
    embedding = given["base_model.model.model.embed_tokens.weight"]
    assert np.array_equal(tensors["token_embd.weight"].data, embedding)
    head = given["base_model.model.lm_head.weight"]
    assert np.array_equal(tensors["output.weight"].data, head)
    assert np.array_equal(
        tensors["output_norm.weight"].data, given["base_model.model.model.norm.weight"]
    )
    assert reader.fields["llama.vocab_size"].contents() == rows
    assert reader.fields["tokenizer.ggml.tokens"].contents()[-1] == "<|new607|>"


def test_a_copy_of_the_base_is_no_whole_tensor(base: Path, tmp_path: Path) -> None:
    saved = {"model.embed_tokens.base_layer.weight": (600, 64)}
    folder = standin.write_adapter(
        tmp_path / "lora", config(), targets=["embed_tokens"], saved=saved
    )
    tensors = written(base, folder)
    assert {*tensors} == {"token_embd.weight.lora_a", "token_embd.weight.lora_b"}
    assert tensors["token_embd.weight.lora_a"].data.shape == (600, 4)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_a_tied_embedding_is_untied_by_a_merge_alone(target: str, tmp_path: Path) -> None:
    shape = config(tie_word_embeddings=True)
    write_checkpoint(tmp_path / "base", shape, dtype="F32")
    folder = standin.write_adapter(tmp_path / "lora", shape, targets=["v_proj", target])
    with pytest.raises(CheckpointError, match=f"adapts .*{target}.weight.*--merge ADAPTER"):
        written(tmp_path / "base", folder)
    merge_into(tmp_path / "base", folder, tmp_path / "merged.gguf")
    untied = {**shape, "tie_word_embeddings": False}
    standin.merge(tmp_path / "base", folder, tmp_path / "expected", {"": 2.0}, config=untied)
    convert(tmp_path / "expected", tmp_path / "expected.gguf", "F32")
    assert_close(tmp_path / "merged.gguf", tmp_path / "expected.gguf")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"peft_type": "IA3"}, "kind 'IA3'; LoRA adapters alone"),
        ({"peft_type": None}, "kind None"),
        ({"use_dora": True}, "DoRA"),
        ({"use_qalora": True}, "QA-LoRA"),
        ({"lora_bias": True}, "bias of its own"),
        ({"layer_replication": [[0, 2]]}, "replicated layers"),
        ({"trainable_token_indices": [1]}, "trainable tokens"),
        ({"alora_invocation_tokens": [1]}, "aLoRA"),
        ({"init_lora_weights": "pissa"}, "'pissa', which changes the base's own weights"),
        ({"init_lora_weights": [1]}, "init_lora_weights is"),
        ({"use_next_years_kind": True}, "use_next_years_kind is 'True', which may make another"),
        ({"r": 0}, "r is 0"),
        ({"r": "4"}, "r is '4', not a whole number"),
        ({"r": 1 << 20}, "r is 1048576"),
        ({"lora_alpha": -1}, "lora_alpha is -1"),
        ({"lora_alpha": True}, "lora_alpha is True"),
        ({"use_rslora": 1}, "use_rslora is 1, expected true or false"),
        ({"rank_pattern": {"v_proj": 9}}, r"v_proj has rank 4, but adapter_config.json makes it 9"),
        ({"rank_pattern": [1]}, "rank_pattern is not an object"),
        ({"alpha_pattern": {"(a*)*$": 1}}, "too intricate"),
        ({"alpha_pattern": {"a*a*a*a": 1}}, "too intricate"),
        ({"alpha_pattern": {"(a": 1}}, "no regular expression"),
        ({"alpha_pattern": {"(?i)q_proj": 1}}, "no regular expression"),
        ({"alpha_pattern": {"v_proj": None}}, "alpha_pattern of v_proj is None"),
        ({"base_model_name_or_path": 7}, "base_model_name_or_path is not a model's name"),
    ],
)
def test_other_kinds_and_odd_values_are_named(
    changes: dict[str, Any], fault: str, base: Path, tmp_path: Path
) -> None:
    folder = standin.write_adapter(tmp_path / "lora", config())
    write_json(folder / "adapter_config.json", adapter_config(**changes))
    with pytest.raises(CheckpointError, match=fault.replace("(", r"\(")):
        written(base, folder)
    assert not folder.with_suffix(".gguf").exists()


def test_a_pattern_that_python_warns_of_is_read_without_a_word(tmp_path: Path) -> None:
    folder = standin.write_adapter(tmp_path / "lora", config(), alpha_pattern={"[[v]_proj": 16})
    with warnings.catch_warnings(action="error"):
        read = read_adapter_config(folder)
    assert read.scale_of("model.layers.0.self_attn.v_proj") == 4.0


Change = Callable[[dict[str, np.ndarray]], None]
Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda t: t.pop(f"{Q}.lora_A.weight"), "q_proj is not lora_A and lora_B"),
        (lambda t: t.update({f"{Q}.lora_A.weight": t[f"{Q}.lora_A.weight"][:, 1:]}), "lora_A of"),
        (lambda t: t.update({f"{Q}.lora_B.weight": t[f"{Q}.lora_B.weight"][1:]}), "another model"),
        (lambda t: t.update({f"{Q}.lora_A.weight": np.zeros(4)}), "has shape"),
        (lambda t: t.update({f"{Q}.lora_magnitude_vector": np.zeros(4)}), "no part of a LoRA"),
        (
            lambda t: t.update({f"{Q.replace('.0.', '.7.')}.lora_A.weight": np.zeros((4, 64))}),
            r"adapts model\.layers\.7\.self_attn\.q_proj, which the base doesn't have",
        ),
        (lambda t: t.update({f"{Q}.bias": np.zeros(64)}), "q_proj.bias, which the base doesn't"),
        (lambda t: t.update({"base_model.model.model.norm.weight": np.zeros(64)}), "of its own"),
        (
            lambda t: t.update({"base_model.model.model.norm.original_module.weight": np.ones(64)}),
            "as it was before alone",
        ),
        (lambda t: t.clear(), "no tensors"),
        (lambda t: t[f"{Q}.lora_A.weight"].fill(np.nan), "NaN, infinite or beyond"),
    ],
)
def test_what_does_not_fit_the_base_is_named(
    change: Change, fault: str, base: Path, tmp_path: Path
) -> None:
    folder = standin.write_adapter(tmp_path / "lora", config())
    tensors = read_safetensors(folder / "adapter_model.safetensors")
    tensors = {name: values.copy() for name, values in tensors.items()}
    change(tensors)
    standin.write_safetensors(folder / "adapter_model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=fault):
        written(base, folder)
    assert not folder.with_suffix(".gguf").exists()
    assert not [*tmp_path.glob(".*")]


def test_what_is_not_finite_is_no_part_of_a_merge(base: Path, tmp_path: Path) -> None:
    folder = standin.write_adapter(tmp_path / "lora", config(), deviation=1e25)
    with pytest.raises(CheckpointError, match=r"the pair of .* makes values that are NaN or inf"):
        merge_into(base, folder, tmp_path / "merged.gguf")
    assert not (tmp_path / "merged.gguf").exists()


def test_sums_beyond_floats_are_told_by_the_error_alone(base: Path, tmp_path: Path) -> None:
    """NumPy's warnings would go to stderr beside it."""
    folder = standin.write_adapter(
        tmp_path / "lora", config(), targets=["up_proj", "v_proj"], alpha_pattern={"v_proj": 800}
    )
    sides = {"A": 1.0, "B": 3e37}
    for path in (folder / "adapter_model.safetensors", base / "model.safetensors"):
        tensors = {name: values.copy() for name, values in read_safetensors(path).items()}
        for name, values in tensors.items():
            values[:] = sides.get(name[-len("A.weight")], 2e38 if "up_proj" in name else 0.0)
        standin.write_safetensors(path, tensors)
    with warnings.catch_warnings(action="error"):
        with pytest.raises(CheckpointError, match="beyond F32"):
            written(base, folder)
        write_json(folder / "adapter_config.json", adapter_config(target_modules=["up_proj"]))
        with pytest.raises(CheckpointError, match=r"up_proj.weight has \d+ values that are NaN"):
            merge_into(base, folder, tmp_path / "merged.gguf")


@pytest.mark.parametrize("key", QUANTIZED)
def test_a_base_whose_weights_are_quantized_tells_its_shape(base: Path, key: str) -> None:
    config = json.loads((base / "config.json").read_text())
    folder = base.parent / key
    folder.mkdir()
    write_json(folder / "config.json", {**config, key: {"bits": 4}})
    assert read_base_config(folder) == read_config(base)


def test_pickles_are_not_read(base: Path, tmp_path: Path) -> None:
    folder = standin.write_adapter(tmp_path / "lora", config())
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin; only safetensors"):
        open_adapter(folder, read_config(base))


def test_types_and_targets(base: Path, tmp_path: Path) -> None:
    folder = standin.write_adapter(tmp_path / "lora", config())
    with pytest.raises(QuantizationError, match="written as F32, F16, BF16, not as Q4_K_M"):
        written(base, folder, "Q4_K_M")
    shape = read_config(base)
    (tmp_path / "there.gguf").write_text("x")
    with pytest.raises(TargetError, match="exists already"):
        write_adapter(open_adapter(folder, shape), shape, tmp_path / "there.gguf")
    assert (tmp_path / "there.gguf").read_text() == "x"


def test_the_first_pattern_that_fits_counts(tmp_path: Path) -> None:
    patterns = {"q_proj": 2, "model.layers.1.self_attn.q_proj": 3, r"layers\.[01]\..*_proj": 5}
    write_json(tmp_path / "adapter_config.json", adapter_config(rank_pattern=patterns))
    config = read_adapter_config(tmp_path)
    assert config.rank_of("model.layers.1.self_attn.q_proj") == 2
    assert config.rank_of("model.layers.1.self_attn.xq_proj") == 5
    assert config.rank_of("model.layers.2.self_attn.v_proj") == 4
