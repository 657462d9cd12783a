"""Made-up LoRA adapters as PEFT saves them, and the matrices that they come to."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convert.config import LlamaConfig
from convert.safetensors import LocalFile, read_header
from convert.stored import as_float32
from convert.tensors import llama_tensors
from tests.standins.checkpoint import encode, write_json

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, ALPHA = 4, 8


def adapter_config(**changes: Any) -> dict[str, Any]:
    """What PEFT 0.21 writes, with some keys changed."""
    return {
        "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "some/base",
        "bias": "none", "corda_config": None, "eva_config": None, "exclude_modules": None,
        "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
        "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
        "loftq_config": {}, "lora_alpha": ALPHA, "lora_bias": False, "lora_dropout": 0.0,
        "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
        "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": RANK,
        "rank_pattern": {}, "revision": None, "target_modules": list(LINEAR),
        "target_parameters": None, "task_type": "CAUSAL_LM", "trainable_token_indices": None,
        "use_dora": False, "use_qalora": False, "use_rslora": False, **changes,
    }  # fmt: skip


def write_adapter(
    folder: Path,
    base: Mapping[str, Any],
    *,
    targets: Iterable[str] = LINEAR,
    ranks: Mapping[str, int] | None = None,
    saved: Mapping[str, tuple[int, ...]] | None = None,
    dtype: str = "F32",
    seed: int = 1,
    deviation: float = 0.1,
    **config: Any,
) -> Path:
    """An adapter for a config.json. ranks are by ends of modules' names; saved are whole tensors.

    The last part of a module's name is what targets names; embed_tokens and lm_head may be there.
    """
    written = adapter_config(target_modules=list(targets), **config)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "adapter_config.json", written)
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}

    def put(name: str, *shape: int) -> None:
        values = rng.standard_normal(shape, dtype=np.float32) * np.float32(deviation)
        tensors[f"base_model.model.{name}"] = values

    untied = LlamaConfig.from_dict({**base, "tie_word_embeddings": False})
    for spec in llama_tensors(untied):
        module = spec.source.removesuffix(".weight")
        if module.rpartition(".")[2] not in targets or len(spec.shape) != 2:
            continue
        rows, columns = spec.shape
        own = [rank for end, rank in (ranks or {}).items() if module.endswith(end)]
        rank = own[0] if own else int(written["r"])
        if module.endswith("embed_tokens"):
            put(f"{module}.lora_embedding_A", rank, rows)
            put(f"{module}.lora_embedding_B", columns, rank)
        else:
            put(f"{module}.lora_A.weight", rank, columns)
            put(f"{module}.lora_B.weight", rows, rank)
    for name, shape in (saved or {}).items():
        put(name, *shape)
    write_safetensors(folder / "adapter_model.safetensors", tensors, dtype)
    return folder


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], dtype: str = "F32") -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in tensors.items():
        raw = encode(values, dtype)
        place = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": place}
        data += raw
    raw_header = json.dumps(header).encode()
    path.write_bytes(len(raw_header).to_bytes(8, "little") + raw_header + data)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor as float32."""
    file = LocalFile(path)
    return {
        name: as_float32(file.read(tensor.offset, tensor.nbytes), tensor.dtype).reshape(
            tensor.shape
        )
        for name, tensor in read_header(file).items()
    }


def merge(
    folder: Path,
    adapter: Path,
    target: Path,
    scales: Mapping[str, float],
    *,
    times: float = 1.0,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A checkpoint of one file with an adapter merged by the formula, W + scale · B·A, as F32.

    scales are by ends of modules' names; the first that fits is taken.
    """
    target.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    if config is not None:
        write_json(target / "config.json", config)
    weights = read_safetensors(folder / "model.safetensors")
    given = read_safetensors(adapter / "adapter_model.safetensors")
    bare = {name.removeprefix("base_model.model."): values for name, values in given.items()}
    for name, values in bare.items():
        module, _, side = name.partition(".lora_")
        scale = next((s for end, s in scales.items() if module.endswith(end)), 0.0) * times
        if side == "A.weight":
            delta = bare[f"{module}.lora_B.weight"].astype(np.float64) @ values
        elif side == "embedding_A":
            delta = (bare[f"{module}.lora_embedding_B"].astype(np.float64) @ values).T
        elif not side:
            weights[name] = values
            continue
        else:
            continue
        weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
        source = f"{module}.weight"
        weights[source] = (weights[source] + scale * delta).astype(np.float32)
    if config is None and "tie_word_embeddings" in json.loads((target / "config.json").read_text()):
        tied = json.loads((target / "config.json").read_text())["tie_word_embeddings"]
        if tied and weights.get("lm_head.weight") is weights["model.embed_tokens.weight"]:
            del weights["lm_head.weight"]
    write_safetensors(target / "model.safetensors", weights)
    return target
