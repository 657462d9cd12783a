"""Adapters beside PEFT and llama.cpp's own converter; `make test-parity` installs what it takes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import CheckpointError, open_adapter, read_config, write_adapter
from tests.parity.record_adapter import (
    KINDS,
    PLAIN,
    RECORDED,
    peft_logits,
    their_tensors,
    tokens,
    write_base,
    write_kind,
)
from tests.parity.test_converter import unpacked
from tests.standins.adapter import LINEAR
from tests.test_adapter_parity import NOISE, adapted_logits, our_tensors

pytest.importorskip("peft", reason="PEFT is not installed; `make test-parity` does that")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_base(folder / "base")
    return folder / "base"


@pytest.mark.parametrize("name", KINDS)
def test_live_logits_are_pefts(name: str, base: Path, tmp_path: Path) -> None:
    adapter = write_kind(tmp_path / "lora", name)
    live = peft_logits(base, adapter)
    assert np.abs(live - np.load(RECORDED)[f"logits {name}"]).max() < 1e-2
    for how in ("beside", "merged"):
        error = np.abs(adapted_logits(base, adapter, tmp_path, how) - live).max()
        assert error < NOISE * live.std()


@pytest.mark.parametrize("name", [PLAIN, "vocabulary"])
def test_tensors_are_those_of_llama_cpps_converter(name: str, base: Path, tmp_path: Path) -> None:
    adapter = write_kind(tmp_path / "lora", name)
    theirs = their_tensors(unpacked(), base, adapter, tmp_path / "theirs.gguf")
    ours = our_tensors(base, adapter, tmp_path / "ours.gguf")
    assert ours.keys() == theirs.keys()
    for tensor, values in theirs.items():
        assert np.array_equal(ours[tensor], values), tensor


def test_their_scale_leaves_rslora_out(base: Path, tmp_path: Path) -> None:
    """Why ours differs from theirs where a scale isn't alpha / rank: PEFT's is what counts."""
    adapter = write_kind(tmp_path / "lora", "rslora")
    config = read_config(base)
    report = write_adapter(open_adapter(adapter, config), config, tmp_path / "a.gguf")
    theirs = their_tensors(unpacked(), base, adapter, tmp_path / "theirs.gguf")
    ours = our_tensors(base, adapter, tmp_path / "ours.gguf")
    assert report.alpha == 16.0
    assert all(np.array_equal(ours[name], values) for name, values in theirs.items())


def _saved_by_peft(base: Path, folder: Path, config: Any, rows: int | None = None) -> np.ndarray:
    """Save an adapter of that LoraConfig with random values as PEFT does; the logits with it."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows)
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.2 if "modules_to_save" in name else 0.1)
    adapted.eval()
    adapted.save_pretrained(folder)
    with torch.no_grad():
        return adapted(torch.from_numpy(tokens())[None]).logits[0].numpy()


@pytest.mark.parametrize(
    ("changes", "ways"),
    [
        ({}, ("beside", "merged")),
        ({"r": 6, "lora_alpha": 9, "use_rslora": True}, ("beside", "merged")),
        ({"target_modules": ["embed_tokens", "q_proj", "lm_head"]}, ("beside", "merged")),
        ({"modules_to_save": ["lm_head", "norm"]}, ("merged",)),
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, ("merged",)),
    ],
)
def test_what_peft_saves_is_what_is_read(
    changes: dict[str, Any], ways: tuple[str, ...], base: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig

    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": list(LINEAR), **changes})
    live = _saved_by_peft(base, tmp_path / "lora", config)
    for how in ways:
        logits = adapted_logits(base, tmp_path / "lora", tmp_path, how)
        assert np.abs(logits - live).max() < NOISE * live.std(), how
    if "beside" not in ways:
        with pytest.raises(CheckpointError, match="modules_to_save"):
            adapted_logits(base, tmp_path / "lora", tmp_path, "beside")


def test_a_vocabulary_that_peft_has_resized(base: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    rows = 608
    saved = ["embed_tokens", "lm_head"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["v_proj"], modules_to_save=saved)
    live = _saved_by_peft(base, tmp_path / "lora", config, rows)
    grown = json.loads((base / "tokenizer.json").read_text())
    first = grown["added_tokens"][0]
    for i in range(600, rows):
        grown["added_tokens"].append({**first, "id": i, "content": f"<|new{i}|>"})
    (tmp_path / "lora" / "tokenizer.json").write_text(json.dumps(grown))
    logits = adapted_logits(base, tmp_path / "lora", tmp_path, "merged")
    assert logits.shape == live.shape == (len(tokens()), rows)
    assert np.abs(logits - live).max() < NOISE * live.std()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "bias of its own"),
        ({"trainable_token_indices": [1, 2]}, "trainable tokens"),
        ({"init_lora_weights": "pissa"}, "changes the base's own weights"),
    ],
)
def test_other_kinds_that_peft_saves_are_refused(
    changes: dict[str, Any], fault: str, base: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig

    config = LoraConfig(**{"r": 4, "target_modules": list(LINEAR), **changes})
    _saved_by_peft(base, tmp_path / "lora", config)
    with pytest.raises(CheckpointError, match=fault):
        open_adapter(tmp_path / "lora", read_config(base))
