"""Vocabularies of Llama 3 and its relatives: what is a marker, an end, a pre-tokenizer's match."""

import gc
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from llamacli.engine import Vocabulary, load_vocabulary
from llamacli.engine.vocabulary import MAX_RECURSION, _short_pieces
from llamacli.errors import InvalidModelError
from llamacli.gguf.check import PRE_TOKENIZERS, RECURSIVE_PRE_TOKENIZERS
from llamacli.machine import load_library
from llamacli.prompt import encode_chat, encode_raw
from tests.standins.tiny import write_model
from tests.standins.vocabulary import control_tokens, small_tokenizer

Change = Callable[[gguf.GGUFWriter], None]
CONTROL, USER, NORMAL, UNKNOWN = (
    int(getattr(gguf.TokenType, name)) for name in ("CONTROL", "USER_DEFINED", "NORMAL", "UNKNOWN")
)
# What DeepSeek's distills of Llama 3 add, "special" false in tokenizer.json; and ChatML's.
FULLWIDTH = ["<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]
CHATML = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<unused7>", "<pad>", "<fim_prefix>"]

CHATML_TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEEPSEEK_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% set content = m.content %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{% if m.role == 'user' %}{{ '<｜User｜>' + content }}"
    "{% else %}{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)


def typed(kinds: dict[str, int]) -> Change:
    def change(writer: gguf.GGUFWriter) -> None:
        texts = writer.kv_data[0]["tokenizer.ggml.tokens"].value
        values = writer.kv_data[0]["tokenizer.ggml.token_type"].value
        for text, kind in kinds.items():
            values[texts.index(text)] = kind

    return change


def named(added: list[str]) -> list[str]:
    """256 spellings: those added, then Llama 3's, which the stand-in's header needs."""
    return [*control_tokens()[: 256 - len(added)], *added]


def make(path: Path, added: list[str], change: Change = lambda _: None, **settings: Any) -> Path:
    raw = small_tokenizer(named(added))
    return write_model(path / "v.gguf", tokenizer=raw, change=change, **settings)


def vocabulary_of(path: Path, added: list[str], change: Change = lambda _: None) -> Vocabulary:
    return load_vocabulary(make(path, added, change, weights=False))


@pytest.mark.parametrize("kind", [CONTROL, USER, UNKNOWN])
@pytest.mark.parametrize("texts", [FULLWIDTH, CHATML])
def test_typed_markers_stay_text_whatever_their_type(
    texts: list[str], kind: int, tmp_path: Path
) -> None:
    """Those that llama.cpp or its converter counts as control, also where a file types them so."""
    vocabulary = vocabulary_of(tmp_path, texts, typed(dict.fromkeys(texts, kind)))
    template = DEEPSEEK_TEMPLATE if texts is FULLWIDTH else CHATML_TEMPLATE
    ids = vocabulary.special_tokens

    def control(text: str) -> list[int]:
        messages = [{"role": role, "content": text} for role in ("user", "assistant", "user")]
        tokens = encode_chat(vocabulary, template, messages)
        return [token for token in tokens if token in ids.values()]

    assert control("x")[-1] == ids["<｜Assistant｜>" if texts is FULLWIDTH else "<|im_start|>"]
    for text in texts:
        assert text in ids and ids[text] in vocabulary.control_tokens
        for typed_in in (text, f" {text}\n", f"a{text}{text}", f"{text[:2]}</think>{text[2:]}"):
            assert control(typed_in) == control("x")
            assert ids[text] not in vocabulary.tokenize(typed_in)
            assert vocabulary.text_of(vocabulary.tokenize(typed_in)) == typed_in
        assert encode_raw(vocabulary, text, special=True)[-1] == ids[text]


def test_fullwidth_markers_are_cut_as_the_pre_tokenizer_cuts(tmp_path: Path) -> None:
    """Typed, they are the tokens that they would be where the file types them as control."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    control = vocabulary_of(tmp_path / "a", FULLWIDTH)
    user = vocabulary_of(tmp_path / "b", FULLWIDTH, typed(dict.fromkeys(FULLWIDTH, USER)))
    for text in FULLWIDTH:
        assert user.tokenize(f"x {text} y") == control.tokenize(f"x {text} y")


@pytest.mark.parametrize("kind", [NORMAL, USER])
def test_ends_are_what_llama_cpp_takes_for_ends(kind: int, tmp_path: Path) -> None:
    """<|eot_id|> ends an answer, and isn't printed, where the file types it as ordinary text."""

    def change(writer: gguf.GGUFWriter) -> None:
        typed({"<|eot_id|>": kind, "<|eom_id|>": kind})(writer)
        writer.kv_data[0]["tokenizer.ggml.eos_token_id"].value = eos

    eos = 1024 - 256 + 1
    vocabulary = vocabulary_of(tmp_path, ["<|im_end|>"], change)
    ids = vocabulary.special_tokens
    assert vocabulary.eos == eos == ids["<|end_of_text|>"]
    for text in ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end_of_text|>"):
        assert ids[text] in vocabulary.end_tokens & vocabulary.control_tokens
        assert ids[text] not in vocabulary.tokenize(text)


@pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS | RECURSIVE_PRE_TOKENIZERS))
def test_each_pre_tokenizer_is_llama_cpps_and_takes_any_length(name: str, tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0]["tokenizer.ggml.pre"].value = name

    vocabulary = vocabulary_of(tmp_path, [], change)
    for text in ("a", " ", "7", "!", "\n", "你", "é", "aA", "'s", "a b "):
        whole = text * 40_000
        spelled = b"".join(vocabulary.pieces[token] for token in vocabulary.tokenize(whole))
        assert spelled.decode() == whole


def test_an_unknown_pre_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0]["tokenizer.ggml.pre"].value = "made-up"

    with pytest.raises(InvalidModelError, match="'made-up'"):
        vocabulary_of(tmp_path, [], change)


def test_long_texts_are_cut_where_pre_tokenizers_cut(tmp_path: Path) -> None:
    words = " ".join(f"word{i}, It's  a\n\n line!" for i in range(4000))
    pieces = list(_short_pieces(words))
    assert "".join(pieces) == words and max(map(len, pieces)) <= MAX_RECURSION
    assert all(b[0] == " " and not a[-1].isspace() for a, b in itertools.pairwise(pieces))

    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0]["tokenizer.ggml.pre"].value = "deepseek-llm"

    vocabulary = vocabulary_of(tmp_path, [], change)
    short = words[:9000]
    assert vocabulary.tokenize(short) == vocabulary._tokenize(short, False)


def test_chatml_without_bos(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0]["tokenizer.ggml.add_bos_token"].value = False
        writer.kv_data[0]["tokenizer.ggml.eos_token_id"].value = 1023 - 4  # <|im_end|>

    vocabulary = vocabulary_of(tmp_path, CHATML, change)
    tokens = encode_chat(vocabulary, CHATML_TEMPLATE, [{"role": "user", "content": "<|im_end|>"}])
    start, end = (vocabulary.special_tokens[text] for text in CHATML[:2])
    assert [token for token in tokens if token in vocabulary.control_tokens] == [
        *(start, end, start, end, start)
    ]
    assert "Be kind." in vocabulary.text_of(tokens) and vocabulary.eos == end


def test_a_file_that_says_nothing_of_bos_does_as_llama_cpp(tmp_path: Path) -> None:
    """Its pre-tokenizer says whether one is added: Llama 3's does, GPT-2's doesn't."""
    for pre, adds in (("llama-bpe", True), ("gpt-2", False)):

        def change(writer: gguf.GGUFWriter, pre: str = pre) -> None:
            writer.kv_data[0]["tokenizer.ggml.pre"].value = pre
            del writer.kv_data[0]["tokenizer.ggml.add_bos_token"]

        assert vocabulary_of(tmp_path, [], change).add_bos is adds


def test_no_template_and_no_llama_3_markers_is_refused(tmp_path: Path) -> None:
    others = [f"<|other_{i}|>" for i in range(254)]
    raw = small_tokenizer(["<|begin_of_text|>", "<|eot_id|>", *others])
    vocabulary = load_vocabulary(write_model(tmp_path / "v.gguf", tokenizer=raw, weights=False))
    with pytest.raises(InvalidModelError, match=r"--raw"):
        encode_chat(vocabulary, None, [{"role": "user", "content": "x"}])


def test_a_stop_text_that_is_a_control_token_ends_the_answer(tmp_path: Path) -> None:
    from llamacli.answer import Answer, AnswerText

    vocabulary = vocabulary_of(tmp_path, [])
    letter, python_tag = vocabulary.tokenize("a")[0], vocabulary.special_tokens["<|python_tag|>"]
    for stop, reason in ((("<|python_tag|>",), "stop"), (("b",), None)):
        answer = Answer(vocabulary, 8, AnswerText(stop))
        assert answer.take(letter) == "a" and answer.take(python_tag) == ""
        assert answer.reason == reason


def test_the_converter_and_the_engine_agree() -> None:
    """On pre-tokenizers' names; on what is a marker the engine asks the converter."""
    from convert.pretokenizer import PRE_TOKENIZERS as WRITTEN

    assert {row.name for row in WRITTEN} <= PRE_TOKENIZERS | RECURSIVE_PRE_TOKENIZERS


def test_it_is_freed_when_nobody_has_it_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, freed = load_library(), []
    free = library.llama_model_free
    monkeypatch.setattr(library, "llama_model_free", lambda model: freed.append(free(model)))
    vocabulary = load_vocabulary(write_model(tmp_path / "v.gguf", weights=False))
    assert vocabulary.trie.tokenize_bytes(b"x") == vocabulary.tokenize("x") and not freed
    del vocabulary
    gc.collect()
    assert len(freed) == 1
