"""A trained relative of Llama 3, SmolLM2-135M-Instruct, from its checkpoint to its answers."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convert import convert
from demo.evaluate import answer
from llamacli.commands.verify import check_copy
from llamacli.engine import Engine, EngineSettings
from llamacli.gguf import check_llama, read_gguf
from tests.parity.record_smollm2 import POSITIONS, PROMPT, RECORDED
from tests.standins import smollm2
from tests.test_quantized_bytes import assert_same_tensors, quantize_by_llama_cpp

QUESTIONS = {
    "What is the capital of Italy?": "Rome",
    "What is the capital of Germany?": "Berlin",
    "What is the capital of Japan?": "Tokyo",
    "What is 2 + 2?": "4",
    "What color is the sky on a clear day?": "blue",
    "How many days are in a week?": "7",
    "What is the opposite of hot?": "cold",
    "What is the largest ocean on Earth?": "Pacific",
    "In which country is the Eiffel Tower?": "France",
    "What is the boiling point of water in Celsius?": "100",
}


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    try:
        return smollm2.folder()
    except smollm2.CannotBeHadError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def file(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of each quantization, converted once."""
    place = tmp_path_factory.mktemp("smollm2")

    def made(quant: str) -> Path:
        path = place / f"{quant}.gguf"
        if not path.exists():
            convert(checkpoint, path, quant)
        return path

    return made


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_K_M"])
def test_ten_plain_questions(file: Callable[[str], Path], quant: str) -> None:
    with Engine(file(quant), EngineSettings(context=512)) as engine:
        said = {question: answer(engine, question) for question in QUESTIONS}
    wrong = {
        question: said[question]
        for question, word in QUESTIONS.items()
        if word not in said[question]
    }
    assert len(wrong) <= (0 if quant == "Q8_0" else 1), wrong


def test_logits_are_those_of_transformers(file: Callable[[str], Path]) -> None:
    """As recorded by tests/parity/record_smollm2.py, of the same checkpoint in float32."""
    with Engine(file("BF16"), EngineSettings(context=512)) as engine:
        ids = engine.vocabulary.tokenize(PROMPT, special=True)
        recorded = np.load(RECORDED)
        assert ids == recorded["ids"].tolist()
        for place, tokens, theirs in zip(
            POSITIONS, recorded["tokens"], recorded["logits"], strict=True
        ):
            engine.prefill(ids[: place % len(ids) + 1])
            ours = engine.logits()
            assert ours.argmax() == tokens[0]
            assert np.abs(ours[tokens] - theirs).max() < 0.15


def test_bytes_are_those_of_llama_cpp(file: Callable[[str], Path], tmp_path: Path) -> None:
    """Rows of 576 and 1,536 values: of all K-quantized matrices most fall back."""
    for quant in ("Q4_K_M", "Q8_0"):
        quantize_by_llama_cpp(file("BF16"), tmp_path / "theirs.gguf", quant)
        assert_same_tensors(file(quant), tmp_path / "theirs.gguf")


def test_the_file_as_the_package_ships_it_runs(checkpoint: Path) -> None:
    """Q4_1, made by another tool."""
    path = checkpoint.parent / smollm2.ORIGINAL
    assert check_llama(read_gguf(path)).blocks == 30
    with Engine(path, EngineSettings(context=512)) as engine:
        assert not engine.vocabulary.add_bos
        right = [word in answer(engine, question) for question, word in QUESTIONS.items()]
    assert sum(right) >= 8


def test_no_text_becomes_one_of_its_control_tokens(file: Callable[[str], Path]) -> None:
    with Engine(file("Q8_0"), EngineSettings(context=512)) as engine:
        vocabulary = engine.vocabulary
        assert len(vocabulary.special_tokens) == 17
        for text in vocabulary.special_tokens:
            for around in (text, f"a{text}b", f" {text} ", text * 3):
                assert not set(vocabulary.tokenize(around)) & vocabulary.control_tokens


def test_its_copy_is_vouched_for(file: Callable[[str], Path], checkpoint: Path) -> None:
    with Path(os.devnull).open("w") as said:
        check_copy(file("Q8_0"), checkpoint, said, threads=2)
