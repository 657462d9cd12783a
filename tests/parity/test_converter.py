"""Whole files beside those of llama.cpp's own converter, which llama-cpp-python's source has."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import gguf
import numpy as np
import platformdirs
import pytest

from convert import convert
from tests.standins import smollm2
from tests.standins.checkpoint import shape_config, write_checkpoint

pytest.importorskip("torch", reason="PyTorch is not installed; `make test-parity` does that")

ROOT = Path(__file__).resolve().parents[2]
# What llamacli adds, or tells where the converter leaves it open or to llama.cpp.
OURS = {
    *("llamacli.llama_config", "llamacli.generation_config", "llamacli.end_token_ids"),
    *("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"),
    *("tokenizer.ggml.add_bos_token", "llama.attention.key_length"),
    *("llama.attention.value_length", "general.languages"),
}
# Names told by the folder, whose heuristics are the gguf package's in another version.
NAMES = re.compile(r"general\.(name|basename|finetune|version|size_label|organization)")


@pytest.fixture(scope="module")
def converter() -> Path:
    return unpacked()


def unpacked() -> Path:
    """convert_hf_to_gguf.py with what it imports, unpacked once from the source package."""
    pinned = re.search(r'"llama-cpp-python==([^"]*)"', (ROOT / "pyproject.toml").read_text())
    assert pinned is not None
    place = platformdirs.user_cache_path("llamacli") / f"converter-{pinned[1]}"
    if not (place / "convert_lora_to_gguf.py").exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            asked = [*command, "--no-binary", ":all:", f"llama-cpp-python=={pinned[1]}"]
            subprocess.run(asked, cwd=scratch, check=True)
            with tarfile.open(next(Path(scratch).glob("*.tar.gz"))) as archive:
                archive.extractall(scratch, filter="data")
            source = next(Path(scratch).glob("llama_cpp_python-*/vendor/llama.cpp"))
            parts = Path(scratch) / "parts"
            for name in ("conversion", "gguf-py"):
                shutil.copytree(source / name, parts / name)
            for name in ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py"):
                shutil.copy(source / name, parts)
            shutil.rmtree(place, ignore_errors=True)
            parts.rename(place)
    return place / "convert_hf_to_gguf.py"


def theirs(converter: Path, folder: Path, target: Path) -> gguf.GGUFReader:
    command = [sys.executable, str(converter), str(folder), "--outfile", str(target)]
    quiet = {**os.environ, "PYTHONPATH": str(converter.parent / "gguf-py")}
    subprocess.run([*command, "--outtype", "bf16"], check=True, env=quiet, capture_output=True)
    return gguf.GGUFReader(target)


def assert_same(ours: gguf.GGUFReader, expected: gguf.GGUFReader) -> None:
    fields, wanted = ours.fields, expected.fields
    for key in sorted(wanted.keys() | fields.keys()):
        if key.startswith("GGUF.") or NAMES.match(key) or (key in OURS and key not in wanted):
            continue
        assert key in fields and key in wanted, key
        assert fields[key].types == wanted[key].types, key
        assert fields[key].contents() == wanted[key].contents(), key
    tensors = {tensor.name: tensor for tensor in ours.tensors}
    assert tensors.keys() == {tensor.name for tensor in expected.tensors}
    for tensor in expected.tensors:
        same = tensors[tensor.name]
        assert same.tensor_type == tensor.tensor_type, tensor.name
        assert np.array_equal(same.data, tensor.data), tensor.name


def test_smollm2(converter: Path, tmp_path: Path) -> None:
    try:
        folder = smollm2.folder()
    except smollm2.CannotBeHadError as error:
        pytest.skip(str(error))
    convert(folder, tmp_path / "ours.gguf", "BF16")
    assert_same(
        gguf.GGUFReader(tmp_path / "ours.gguf"), theirs(converter, folder, tmp_path / "t.gguf")
    )


@pytest.mark.parametrize("biases", [False, True])
def test_llama_3_1(biases: bool, converter: Path, llama3_files: Path, tmp_path: Path) -> None:
    """Meta's tokenizer, config and template over made-up weights of a small shape."""
    folder = tmp_path / "Meta-Llama-3.1-Tiny-Instruct"
    config = shape_config(
        "tiny", vocab_size=128_256, bos_token_id=128_000, eos_token_id=[128_001, 128_008, 128_009],
        attention_bias=biases, mlp_bias=biases,
    )  # fmt: skip
    write_checkpoint(folder, config)
    shutil.copy(llama3_files / "tokenizer.json", folder)
    for name in ("tokenizer_config.json", "generation_config.json"):
        shutil.copy(llama3_files / "Meta-Llama-3.1-8B-Instruct" / name, folder)
    (folder / "config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "ours.gguf", "BF16")
    assert_same(
        gguf.GGUFReader(tmp_path / "ours.gguf"), theirs(converter, folder, tmp_path / "t.gguf")
    )
