"""llama.cpp's tokens are those of the tokenizers library, for each tokenizer.json that is taken."""

import json
import random
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers, trainers

from convert import CheckpointError
from convert.pretokenizer import PRE_TOKENIZERS, PreTokenizer, Step, byte_letters, recognize
from llamacli.engine import Vocabulary, load_vocabulary
from llamacli.gguf.check import PRE_TOKENIZERS as MATCHED, RECURSIVE_PRE_TOKENIZERS
from tests.standins.checkpoint import tokenizer
from tests.standins.tiny import write_model

COUNT = 20_000
ALONE = 2_000  # of them, where llama.cpp compiles regular expressions anew for every text
TOKENS = 3000
MARKS = ("<|begin_of_text|>", "<|eot_id|>")
BLANK_CONTROLS = "\u2028\u2029\u3000"  # beside which llama.cpp's deepseek rows cut otherwise
WORDS = [
    "the", "of", "and", "Hello", "World", "isn't", "we'll", "I'M", "YOU'RE", "they'Ve", "'s",
    "'T", "don't", "naïve", "café", "Straße", "Привет", "мир", "Γειά", "σου", "مرحبا", "بالعالم",
    "שלום", "你好", "世界", "今天", "こんにちは", "カタカナ", "ひらがな",
    "안녕하세요", "नमस्ते", "दुनिया", "สวัสดี",
    "გამარჯობა", "ሰላም", "🦙", "👩\u200d👩\u200d👧", "🏳️\u200d🌈", "é", "ä", "x²", "½", "٣٤٥", "१२३",
    "一二三", "①②", "123", "4567", "89012", "3.14", "1,000", "def", "return", "print(", ");", "{}",
    "==", "!=", "//", "http://", "a@b.c", "C:\\", "...", "!!!", "???", "---", "##", "**", "```",
    "<|", "|>", "camelCase", "snake_case", "UPPER", "Ǆ", "ǅ", "ſ", "İ", "ı", "ß", "ẞ", "ﷺ", "ﬁ",
]  # fmt: skip
BLANKS = (
    *(
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "\t\t",
        " \n",
        "\n ",
        " \u00a0",
        "\x0b",
        "\x0c",
    ),
    *("\u3000", "\u2028", "\u0085", "\u200b", "\u200d", "\ufeff", ""),
)
UNREACHABLE = (" Việt", " Привет", "camelCase", " 안녕하세요", "你好")  # as merges alone go


@cache
def characters() -> dict[str, list[str]]:
    """Every assigned character by its category."""
    by_class: dict[str, list[str]] = {}
    for code in range(0x110000):
        kind = unicodedata.category(chr(code))
        if kind not in ("Cn", "Co", "Cs"):
            by_class.setdefault(kind, []).append(chr(code))
    return by_class


@cache
def texts(count: int, seed: int) -> tuple[str, ...]:
    """Words of many scripts, blanks, numbers, marks, code, and characters of all categories."""
    return tuple(_texts(count, seed))


def _texts(count: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    kinds = sorted(characters())

    def part() -> str:
        kind = rng.random()
        if kind < 0.45:
            return rng.choice(WORDS)
        if kind < 0.75:
            return rng.choice(BLANKS)
        if kind < 0.85:
            return "".join(rng.choice(characters()[rng.choice(kinds)]) for _ in range(3))
        if kind < 0.92:
            return "".join(chr(rng.randrange(256)) for _ in range(rng.randint(1, 6)))
        if kind < 0.96:
            return str(rng.randrange(10 ** rng.randint(1, 12)))
        return rng.choice("!?.,;:'\"()[]{}-_/\\|<>@#$%^&*+=~`") * rng.randint(1, 5)

    for _ in range(count):
        yield "".join(part() for _ in range(rng.randint(1, 12)))


def json_step(step: Step) -> dict[str, Any]:
    kind, how = step
    if kind == "Split":
        return {"type": kind, "pattern": {"Regex": how}, "behavior": "Isolated", "invert": False}
    if kind == "Digits":
        return {"type": kind, "individual_digits": True}
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": bool(how),
    }


def structure(row: PreTokenizer) -> dict[str, Any]:
    """tokenizer.json's pre_tokenizer of a row, as the models that have it write it."""
    steps = list(map(json_step, row.steps))
    return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


def trained(row: PreTokenizer) -> dict[str, Any]:
    """A tokenizer.json of some thousand tokens, trained on such texts; all bytes are tokens."""
    empty = {
        "version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None,
        "decoder": None, "pre_tokenizer": structure(row),
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }  # fmt: skip
    library = Tokenizer.from_str(json.dumps(empty))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=TOKENS, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator(texts(6000, seed=1), trainer)
    raw: dict[str, Any] = json.loads(library.to_str())
    vocabulary = raw["model"]["vocab"]
    if row.ignores_merges:
        letters = byte_letters()
        for word in UNREACHABLE:
            written = "".join(letters[byte] for byte in word.encode())
            vocabulary.setdefault(written, len(vocabulary))
    raw["model"]["ignore_merges"] = row.ignores_merges
    raw["added_tokens"] = [
        {"id": len(vocabulary) + i, "content": text, "special": True, "normalized": False,
         "single_word": False, "lstrip": False, "rstrip": False}
        for i, text in enumerate(MARKS)
    ]  # fmt: skip
    return raw


def loaded(raw: dict[str, Any], name: str, folder: Path) -> Vocabulary:
    path = write_model(folder / f"{name}.gguf", tokenizer=raw, weights=False, pre=name)
    return load_vocabulary(path)


def read_together(source: Sequence[str]) -> Iterator[str]:
    """The first texts one by one, the others seven at a time, with blanks between them or none."""
    yield from source[:ALONE]
    for start in range(ALONE, len(source), 7):
        yield BLANKS[start % len(BLANKS)].join(source[start : start + 7])


@pytest.mark.parametrize("row", PRE_TOKENIZERS, ids=lambda row: row.name)
def test_llama_cpp_gives_the_tokens_of_the_library(row: PreTokenizer, tmp_path: Path) -> None:
    raw = trained(row)
    assert recognize(raw["pre_tokenizer"], ignores_merges=row.ignores_merges) == row
    vocabulary = loaded(raw, row.name, tmp_path)
    library = Tokenizer.from_str(json.dumps(raw))
    source = texts(COUNT, seed=2)
    different = [
        text
        for text in (read_together(source) if row.name in RECURSIVE_PRE_TOKENIZERS else source)
        if vocabulary.tokenize(text) != library.encode(text, add_special_tokens=False).ids
    ]
    if row.differs:
        assert len(different) < COUNT // 20
        different = [text for text in different if not set(text) & set(BLANK_CONTROLS)]
    assert not different, ascii(min(different, key=len))


def test_all_names_that_are_written_are_run() -> None:
    assert {row.name for row in PRE_TOKENIZERS} <= MATCHED | RECURSIVE_PRE_TOKENIZERS


@pytest.mark.parametrize("row", PRE_TOKENIZERS, ids=lambda row: row.name)
@pytest.mark.parametrize("letter", ["a", "語", " ", "!", "1"])
def test_a_word_without_an_end_does_not_end_the_process(
    row: PreTokenizer, letter: str, tmp_path: Path
) -> None:
    """llama.cpp splits for most of them by a function that calls itself for every letter."""
    vocabulary = loaded(tokenizer(1024), row.name, tmp_path)  # how it splits is all that matters
    assert vocabulary.tokenize(letter * 200_000)


@pytest.mark.parametrize("behavior", ["Isolated", "Removed"])
def test_both_spellings_of_a_split_are_known(behavior: str, tmp_path: Path) -> None:
    row = PRE_TOKENIZERS[0]
    raw = trained(row)
    split = raw["pre_tokenizer"]["pretokenizers"][0]
    split |= {"behavior": behavior, "invert": behavior == "Removed"}
    assert recognize(raw["pre_tokenizer"], ignores_merges=True) == row
    vocabulary, library = loaded(raw, row.name, tmp_path), Tokenizer.from_str(json.dumps(raw))
    for text in texts(1000, seed=3):
        assert vocabulary.tokenize(text) == library.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("pre_tokenizer", "words"),
    [
        (None, "missing"),
        ({"type": "Metaspace", "replacement": "▁"}, "Metaspace replacement ▁"),
        ({"type": "ByteLevel"}, "a blank put before the text"),
        ({"type": "Sequence", "pretokenizers": ["x"]}, "something else than objects"),
        ({"type": "Digits", "individual_digits": False}, "Digits together"),
        (
            {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "MergedWithNext"},
            "x (MergedWithNext)",
        ),
        ({"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated"}, "String"),
    ],
)
def test_unknown_ones_are_refused_by_what_they_do(pre_tokenizer: Any, words: str) -> None:
    with pytest.raises(CheckpointError) as error:
        recognize(pre_tokenizer, ignores_merges=False)
    assert words in str(error.value)


def test_ignore_merges_decides_between_two(tmp_path: Path) -> None:
    """Llama 3's pattern without ignore_merges is another tokenizer, which llama.cpp has too."""
    llama = PRE_TOKENIZERS[0]
    assert recognize(structure(llama), ignores_merges=False).name == "smaug-bpe"
    with pytest.raises(CheckpointError, match=r"model\.ignore_merges is true"):
        recognize(structure(PRE_TOKENIZERS[2]), ignores_merges=True)
    raw = trained(llama)
    raw["model"]["ignore_merges"] = False
    library = Tokenizer.from_str(json.dumps(raw))
    vocabulary = loaded(raw, "smaug-bpe", tmp_path)
    other = loaded(raw, "llama-bpe", tmp_path)
    ids = [library.encode(word, add_special_tokens=False).ids for word in UNREACHABLE]
    assert ids == list(map(vocabulary.tokenize, UNREACHABLE))
    assert ids != list(map(other.tokenize, UNREACHABLE))
