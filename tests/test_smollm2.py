"""A trained relative of Llama 3, SmolLM2-135M-Instruct, from its checkpoint to its answers."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convert import convert
from convert.quantization import named_quantization
from llamacli.answer import generate
from llamacli.chat import ChatSession
from llamacli.commands.verify import check_copy
from llamacli.engine import Engine, EngineSettings, SamplingSettings
from llamacli.gguf import check_llama, read_gguf
from llamacli.gguf.file import MERGES, TOKENS
from llamacli.prompt import encode_chat
from llamacli.quality import compare
from tests.parity.record_smollm2 import POSITIONS, PROMPT, RECORDED
from tests.quantized import assert_same_tensors, quantize_by_llama_cpp
from tests.standins import smollm2
from tests.test_cli import llamacli

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


def said_of(engine: Engine, question: str, word: str) -> str:
    """The greedy answer to a question, as far as the word that it must have."""
    template = engine.file.metadata["tokenizer.chat_template"]
    prompt = encode_chat(engine.vocabulary, template, [{"role": "user", "content": question}])
    text = ""
    for chunk in generate(engine, prompt, SamplingSettings(temperature=0.0), max_tokens=80):
        text += chunk.text
        if word in text:
            break
    return text


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_K_M"])
def test_ten_plain_questions(file: Callable[[str], Path], quant: str) -> None:
    with Engine(file(quant), EngineSettings(context=512)) as engine:
        said = {question: said_of(engine, question, word) for question, word in QUESTIONS.items()}
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
        quantize_by_llama_cpp(file("BF16"), tmp_path / "theirs.gguf", named_quantization(quant))
        assert_same_tensors(file(quant), tmp_path / "theirs.gguf")


def test_the_file_as_the_package_ships_it_runs(checkpoint: Path) -> None:
    """Q4_1, made by another tool."""
    path = checkpoint.parent / smollm2.ORIGINAL
    assert check_llama(read_gguf(path)).blocks == 30
    with Engine(path, EngineSettings(context=512)) as engine:
        assert not engine.vocabulary.add_bos
        right = [word in said_of(engine, question, word) for question, word in QUESTIONS.items()]
    assert sum(right) >= 8


def test_its_vocabulary_is_a_known_one(file: Callable[[str], Path]) -> None:
    assert read_gguf(file("Q8_0")).known == {TOKENS, MERGES}


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


def test_what_quantization_costs_it(file: Callable[[str], Path]) -> None:
    """Perplexity and KL divergence beside BF16, on a page of English."""
    text = (Path(__file__).parents[1] / "README.md").read_text()[:1500]
    fine, coarse = compare([file("Q8_0"), file("Q4_K_M")], file("BF16"), text)
    for one, divergence, share in ((fine, 0.02, 0.05), (coarse, 0.3, 0.25)):
        prediction = one.prediction
        assert prediction.reference_perplexity < 100
        assert prediction.perplexity == pytest.approx(prediction.reference_perplexity, rel=share)
        assert 0 < prediction.divergence < divergence


def test_a_chat_reads_only_what_is_new(file: Callable[[str], Path]) -> None:
    with Engine(file("Q8_0"), EngineSettings(context=1024)) as engine:
        session = ChatSession(engine, SamplingSettings(temperature=0.0), max_tokens=24)
        said = []
        for question in ("What is the capital of Italy?", "What is the capital of Germany?"):
            said.append("".join(chunk.text for chunk in session.send(question)))
        assert "Rome" in said[0] and "Berlin" in said[1]
        assert session.last is not None
        assert session.last.cached_tokens > session.last.prompt_tokens - 30


def test_an_exact_batch_answers_as_run_does(file: Callable[[str], Path], tmp_path: Path) -> None:
    asked = list(QUESTIONS)[:4]
    lines = tmp_path / "lines"
    lines.write_text("".join(f"{question}\n" for question in asked))
    how = ["-m", file("Q4_K_M"), "--temp", "0", "-n", "12", "-c", "512"]
    batch = llamacli("batch", lines, "--exact", *how).stdout.splitlines()
    for question, line in zip(asked, batch, strict=True):
        alone = llamacli("run", question, "--json", *how).stdout
        assert json.loads(line)["text"] == json.loads(alone)["text"]
