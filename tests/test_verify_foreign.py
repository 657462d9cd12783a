"""Files that other tools made are judged like our own."""

import ctypes
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from convert import convert
from convert.metadata import CONFIG_KEY, GENERATION_KEY
from llamacli.verify.report import verify
from tests.standins.checkpoint import shape_config, write_checkpoint
from tests.standins.rewritten import Tensors, rewrite


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "checkpoint"
    write_checkpoint(folder, shape_config("tiny"))
    convert(folder, folder.parent / "bf16.gguf", "BF16")
    return folder


def foreign(source: Path, target: Path) -> Path:
    """What llama.cpp's converter leaves out, or older versions of it did."""
    left_out = (CONFIG_KEY, GENERATION_KEY, "llama.attention.key_length", "llama.vocab_size",
                "llama.attention.value_length", "tokenizer.ggml.eot_token_id",
                "tokenizer.ggml.add_bos_token")  # fmt: skip
    keys = dict.fromkeys(left_out)
    return rewrite(source, target, keys={**keys, "general.quantized_by": "someone else"})


FILE_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q4_K_M", "Q6_K", "IQ4_NL",
              "IQ4_XS", "IQ3_S", "MXFP4_MOE")  # fmt: skip
WITH_IMPORTANCES = ("Q4_0", "Q2_K_S", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ2_XXS")


@pytest.mark.parametrize(
    "name", [*FILE_TYPES, *(f"{name} with importances" for name in WITH_IMPORTANCES)]
)
def test_files_of_llama_cpps_tools_pass(folder: Path, tmp_path: Path, name: str) -> None:
    """Every kind of llama-quantize, from a file without our keys, the output in another type."""
    source = foreign(folder.parent / "bf16.gguf", tmp_path / "foreign.gguf")
    kind, _, importances = name.partition(" ")
    ftype = int(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    quantize_by_llama_cpp(source, tmp_path / "out.gguf", ftype, bool(importances))
    assert verify(tmp_path / "out.gguf", folder).failed == ()


@llama_cpp.llama_log_callback
def silent(level: int, text: bytes, data: object) -> None:
    """llama.cpp's log is not what the tests are about."""


def quantize_by_llama_cpp(source: Path, target: Path, ftype: int, importances: bool) -> None:
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.output_tensor_type = ftype, int(Type.Q8_0)
    held = []
    if importances:
        rng = np.random.default_rng(3)
        for tensor in gguf.GGUFReader(source).tensors:
            weights = np.exp(2 * rng.standard_normal(tensor.shape[0])).astype(np.float32)
            pointer = weights.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            held.append((tensor.name.encode(), pointer, len(weights), weights))
        entries = [llama_cpp.llama_model_imatrix_data(*entry[:3]) for entry in held]
        array = (llama_cpp.llama_model_imatrix_data * (len(held) + 1))(*entries)
        parameters.imatrix = array
    plain = target.with_suffix(".plain")
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(plain).encode(), ctypes.byref(parameters)
    )
    assert status == 0
    keys = {"quantize.imatrix.file": "imatrix.gguf"} if importances else {}
    rewrite(plain, target, keys=keys)


def test_an_output_matrix_that_repeats_a_tied_embedding_passes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", shape_config("tiny", tie_word_embeddings=True))
    convert(tmp_path / "c", tmp_path / "out.gguf", "Q8_0")

    def repeat(tensors: Tensors) -> None:
        tensors["output.weight"] = tensors["token_embd.weight"]

    path = rewrite(tmp_path / "out.gguf", tmp_path / "twice.gguf", tensors=repeat)
    assert verify(path, tmp_path / "c").failed == ()

    def another(tensors: Tensors) -> None:
        data, kind = tensors["token_embd.weight"]
        tensors["output.weight"] = (data[::-1], kind)

    path = rewrite(tmp_path / "out.gguf", tmp_path / "other.gguf", tensors=another)
    assert verify(path, tmp_path / "c").failed == ("tensors",)
