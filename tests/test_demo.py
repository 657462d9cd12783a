"""The embedded demo: its layout, what it answers, and that its exam wasn't in its lessons."""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from convert import convert
from convert.checkpoint import open_checkpoint
from demo.calls import FRAMES, NAMES, OWN, TOOLS, call_text, result_and_answer, system_text
from demo.corpus import ABOUT, DO
from demo.evaluate import accuracy, perplexity, with_tools
from demo.facts import FACTS
from demo.held_out import CALLS, GREETINGS, QUESTIONS
from demo.tokenization import TEMPLATE, encode
from demo.tool import result
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


def test_it_is_trained_on_what_its_template_writes() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    assert tokenizer.chat_template == TEMPLATE
    call = {"name": "file_size", "arguments": {"model": "demo"}}
    asked, answered = ({"role": role, "content": role} for role in ("user", "assistant"))
    messages = [
        {"role": "system", "content": "Be kind."},
        asked,
        {"role": "assistant", "content": None, "tool_calls": [{"function": call}]},
        {"role": "tool", "content": "[1]"},
        answered,
    ]
    taught = [
        {"role": "system", "content": system_text(TOOLS, "Be kind.")},
        asked,
        {"role": "assistant", "content": call_text("file_size", {"model": "demo"})},
        {"role": "ipython", "content": "[1]"},
        answered,
    ]
    ids = tokenizer.apply_chat_template(messages, tools=TOOLS, return_dict=False)
    assert encode(tokenizer.backend_tokenizer, taught)[0] == ids


def test_its_tools_are_what_the_program_can_tell() -> None:
    """The results have the form that the demo was taught."""
    assert json.loads((FOLDER.parents[1] / "demo" / "tools.json").read_text()) == TOOLS
    program = str(Path(sys.executable).with_name("llamacli"))
    for name in FRAMES:
        model = "smollm2-360m" if "{}" in FRAMES[name][0] else ""
        given = result(program, name, {"model": model})
        taught = json.loads(result_and_answer(Random(0), name, model)[0])
        assert type(given) is type(taught)
        if model:
            assert given.keys() == taught.keys() and given["model"] == model


def lessons() -> Iterator[str]:
    """Every wording that training can ask, before small words and slips are added."""
    for fact in FACTS.values():
        yield from fact.ask
        for frame, words in itertools.chain(
            itertools.product(DO, fact.do), itertools.product(ABOUT, fact.about)
        ):
            yield frame.format(words)


def lessons_with_tools() -> Iterator[str]:
    for frame in itertools.chain(*FRAMES.values()):
        for names in NAMES.values():
            yield from (frame.format(name) for name in names)


def plain(asked: str) -> str:
    return asked.lower().strip("?.! ")


def test_held_out_questions_were_never_lessons() -> None:
    taught = set(map(plain, lessons()))
    assert not {plain(asked) for _, asked in QUESTIONS} & taught
    taught |= set(map(plain, lessons_with_tools()))
    others = [asked for fact, asked in QUESTIONS if fact not in OWN]
    assert not taught & set(map(plain, [*others, *GREETINGS, *(asked for *_, asked in CALLS)]))
    assert {fact for fact, _ in QUESTIONS} == set(FACTS)
    assert {name for name, *_ in CALLS} == set(FRAMES)


@pytest.mark.parametrize("name", ["BF16", "Q4_K_M"])
def test_held_out_questions_are_answered(files: dict[str, Path], name: str) -> None:
    assert accuracy(files[name]) >= 0.9


def test_tools_are_called_where_they_are_needed(files: dict[str, Path]) -> None:
    shares = with_tools(files["Q4_K_M"])
    assert shares["right calls"] >= 0.8
    assert shares["right answers to results"] >= 0.8
    assert shares["right with tools at hand"] >= 0.8
    assert shares["calls for greetings"] <= 0.05
    assert shares["calls for general questions"] <= 0.05


def test_quantization_costs_little_perplexity(files: dict[str, Path]) -> None:
    exact, fine, coarse = (perplexity(files[name]) for name in ("BF16", "Q8_0", "Q4_K_M"))
    assert abs(fine / exact - 1) <= 0.005
    assert abs(coarse / exact - 1) <= 0.05


def test_config_is_of_the_older_spelling() -> None:
    """So that the demo exercises what the three real checkpoints look like."""
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["rope_scaling"]["rope_type"] == "llama3" and "torch_dtype" in config
