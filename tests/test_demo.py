"""The embedded demo: its layout, what it answers, and that its exam wasn't in its lessons."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from convert import convert
from convert.checkpoint import open_checkpoint
from demo.corpus import ABOUT, DO
from demo.evaluate import accuracy, perplexity
from demo.facts import FACTS
from demo.held_out import QUESTIONS
from tests.conftest import Made

FOLDER = Path(__file__).resolve().parents[1] / "llamacli" / "demo"


@pytest.fixture(scope="module")
def files(made: Made) -> dict[str, Path]:
    """The demo as BF16, Q8_0 and Q4_K_M."""
    return {
        name: made(f"demo-{name}.gguf", lambda path, name=name: convert(FOLDER, path, name))
        for name in ("BF16", "Q8_0", "Q4_K_M")
    }


def test_layout_is_that_of_llama_3_1() -> None:
    checkpoint = open_checkpoint(FOLDER)
    config = checkpoint.config
    assert config.rope_scaling is not None and config.rope_scaling.kind == "llama3"
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.hidden_size % 256 == 0 and config.intermediate_size % 256 == 0
    assert len(config.eos_token_ids) == 3
    assert len(checkpoint.tokenizer.special) == 256
    assert {tensor.dtype for tensor in checkpoint.weights.values()} == {"BF16"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8_000_000


def test_its_template_gives_one_bos() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    text = tokenizer.apply_chat_template(
        [{"role": "system", "content": " Be kind. "}, {"role": "user", "content": "Hello\n"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def lessons() -> Iterator[str]:
    """Every wording that training can ask, before small words and slips are added."""
    for fact in FACTS.values():
        yield from fact.ask
        for frame, words in itertools.chain(
            itertools.product(DO, fact.do), itertools.product(ABOUT, fact.about)
        ):
            yield frame.format(words)


def plain(asked: str) -> str:
    return asked.lower().strip("?.! ")


def test_held_out_questions_were_never_lessons() -> None:
    assert not {plain(asked) for _, asked in QUESTIONS} & {plain(asked) for asked in lessons()}
    assert {fact for fact, _ in QUESTIONS} == set(FACTS)


@pytest.mark.parametrize("name", ["BF16", "Q4_K_M"])
def test_held_out_questions_are_answered(files: dict[str, Path], name: str) -> None:
    assert accuracy(files[name]) >= 0.8


def test_quantization_costs_little_perplexity(files: dict[str, Path]) -> None:
    exact = perplexity(files["BF16"])
    assert abs(perplexity(files["Q8_0"]) / exact - 1) <= 0.005
    assert abs(perplexity(files["Q4_K_M"]) / exact - 1) <= 0.05


def test_config_is_of_the_older_spelling() -> None:
    """So that the demo exercises what the three real checkpoints look like."""
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["rope_scaling"]["rope_type"] == "llama3" and "torch_dtype" in config
