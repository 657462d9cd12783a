"""Texts as tokens: by llama.cpp with the file's vocabulary, and by the tokenizers library.

The texts are such that tokenizers come apart: scripts, code, numbers, blanks, what looks special.

Without the library (the extra llamacli[verify]) the ids that it gave are compared, which were
recorded for the vocabulary of Meta's models; other vocabularies can't be checked then.
"""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gguf import TokenType

from convert import Checkpoint, Tokenizer
from llamacli.engine import Vocabulary, common_prefix
from llamacli.verify.rows import Row, judged, skipped

ASCII = "".join(map(chr, range(0x20, 0x7F)))
LATIN = "".join(map(chr, range(0xA0, 0x250)))

PROSE = (
    "Hello, world!", "The quick brown fox jumps over the lazy dog.",
    "What's the TIME? I'll say they've DON'T'd it: he'd, we're, I'm; 'S 'T 'RE 'VE 'M 'LL 'D",
    "pneumonoultramicroscopicsilicovolcanoconiosis Donaudampfschifffahrtsgesellschaft",
    "camelCase snake_case kebab-case SCREAMING_CASE e.g. i.e. U.S.A. Ph.D.", "",
    "it'ſ the 'ſ and I'L\u212a",
    "...!!! ??? --- === *** ~~~ ### ,,, ;;; ::: ''' \"\"\" ``` ((([[[{{{}}}]]]))) <<<>>> |||",
    "https://example.org/a/b?q=1&r=%20#top someone@example.com C:\\Temp\\new.txt /usr/bin/env",
)  # fmt: skip
UNICODE = (
    "naïve café Ünïcödé São Tomé Łódź Ångström Ærøskøbing", "e\u0301 a\u0308 n\u0303 o\u0302\u0323",
    "Привет, мир! Ёжик. Київ", "Γειά σου Κόσμε", "مرحبا بالعالم، كيف حالك؟", "שלום עולם",
    "你好，世界。今天天气很好！", "こんにちは世界。カタカナ、ひらがな", "안녕하세요 세계",
    "नमस्ते दुनिया क्षत्रिय", "สวัสดีชาวโลก", "Chào thế giới", "გამარჯობა", "ሰላም ልዑል", "བཀྲ་ཤིས", "ꦲꦤꦕꦫꦏ",
    "🦙🚀 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇨🇭🇯🇵 😶\u200d🌫️ ☺️☺", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 𐍈 𒀀",
    "ﷺ ﬁ Ǆ ǅ ǆ İ ı ß ẞ ſ K Å",
    "\u00a0\u1680\u2000\u2003\u2009\u202f\u205f\u3000 a\u3000b", "a\u200bb\ufeffc\u00add",
    "\u202eright to left\u202c \u2066isolated\u2069", "\ufffd\ufffe\uffff\ufdd0 \U0010ffff \ue000",
    "\x01\x02\x07\x08\x0b\x0c\x1b[31mred\x1b[0m\x7f\x80\x85\x9f", "\u2028line\u2029paragraph",
    ASCII, LATIN,
)  # fmt: skip
NUMBERS = (
    "0 1 12 123 1234 12345 123456 1234567 12345678901234567890", "3.14159 -2.5e-10 1,000,000.00",
    "0x1F 0b1010 0o17 1_000 1e9 50% $9.99 €1.000,00 ½ ² ³ ⅷ ٣٤٥ १२३ 一二三 ①②",
    "2024-07-26T12:34:56Z", "a1b22c333d4444e55555", "1 2  3   4    5",
    "192.168.0.1:8080 v1.2.3-rc.4+build.5",
)  # fmt: skip
BLANKS = (
    *(" " * n for n in (1, 2, 3, 4, 5, 8, 16, 17, 33)), *("\n" * n for n in (1, 2, 3, 4, 9)),
    *("\t" * n for n in (1, 2, 3, 5)), " a", "  a", "   a", "a ", "a  ", "a   b", " \n", "\n ",
    " \n \n ", "\r\n", "\r\n\r\n", "\r", "a\r\nb\rc\n", "\t a", " \ta", "a \n b", "a\n\n  b",
    "  \n\n\n  x  \n", ". \n", ".\n\n", "!\r\n", "x\n\t\ty",
)  # fmt: skip
CODE = (
    "def f(x: int) -> int:\n    return x ** 2 if x >= 0 else -x  # ²\n\n\nprint(f'{f(3)!r}')\n",
    "#include <stdio.h>\nint main(void) {\n\tprintf(\"%d\\n\", 1 << 3);\n\treturn 0;\n}\n",
    "const f = async (a, {b = 1, ...c}) => a?.b ?? `${c}`; // ===\n",
    '{"key": [1, 2.5, {"a": null, "b": true}], "ü": "\\u00fc\\n"}', "<div class=\"a\">&amp;</div>",
    "SELECT * FROM t WHERE a <> 'b''c' AND d IN (1,2);", "| a | b |\n|---|:-:|\n| 1 | `x` |\n",
    "for i in $(seq 1 10); do echo \"$i\" >> out 2>&1; done", "x=1;y=[[0]*3 for _ in range(3)]",
    "aGVsbG8gd29ybGQhIQ== d41d8cd98f00b204e9800998ecf8427e",
    "fn main() { let x: &'static str = r#\"\"#; }",
)  # fmt: skip
LOOKALIKES = (
    "<|", "|>", "<|>", "<||>", "< |eot_id|>", "<|eot_id|", "<|not_a_token|>", "<tool>a</tool>",
)  # fmt: skip

TEXTS = PROSE + UNICODE + NUMBERS + BLANKS + CODE + LOOKALIKES


def special_texts(special: Iterable[str]) -> tuple[str, ...]:
    """All special tokens: one after the other, apart, and within text."""
    spellings = list(special)
    return (
        "".join(spellings),
        " ".join(spellings),
        "\n\n".join(f"word{text}word" for text in spellings),
    )


RECORDED = Path(__file__).with_name("recorded_ids.json")

Tokenize = Callable[[str], Sequence[int]]


def tokenization_row(checkpoint: Checkpoint, vocabulary: Vocabulary) -> Row:
    """Every text of the corpus, and all special tokens; skipped where there are no other ids."""
    if library := reference(checkpoint.folder / "tokenizer.json"):
        texts = TEXTS + special_texts(checkpoint.tokenizer.special)
        problems = _differences(vocabulary, ((text, library(text)) for text in texts))
        return judged("tokenization", problems, f"{len(texts)} texts as tokenizers has them")
    recorded = json.loads(RECORDED.read_text("utf-8"))
    as_recorded = recorded["vocabulary"] == fingerprint(checkpoint.tokenizer)
    if not as_recorded or checkpoint.tokenizer.pre.name != "llama-bpe":
        return skipped(
            "tokenization",
            "the tokenizers library isn't installed (the extra llamacli[verify]) or refuses "
            "tokenizer.json, and its ids are recorded for Meta's vocabulary alone",
        )
    pairs = zip(TEXTS, recorded["ids"], strict=True)
    problems = _differences(vocabulary, pairs)
    special = checkpoint.tokenizer.special
    problems += _differences(vocabulary, [("".join(special), list(special.values()))])
    return judged("tokenization", problems, f"{len(TEXTS) + 1} texts as recorded of tokenizers")


def reference(path: Path) -> Tokenize | None:
    """The tokenizers library with a tokenizer.json; None where it isn't installed or refuses it."""
    if importlib.util.find_spec("tokenizers") is None:
        return None
    from tokenizers import Tokenizer as Library

    try:
        library = Library.from_file(str(path))
    except Exception:  # the library raises nothing more special
        return None
    library.no_padding()  # of batches; tokenizer.json keeps what it was last set to
    library.no_truncation()
    return lambda text: library.encode(text, add_special_tokens=False).ids


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of what decides how plain text is cut: the normal tokens and the merges."""
    pairs = zip(tokenizer.tokens, tokenizer.types, strict=True)
    normal = (token for token, kind in pairs if kind == TokenType.NORMAL)
    parts = "\n".join(normal), "\n".join(tokenizer.merges)
    return hashlib.sha256("\n\n".join(parts).encode()).hexdigest()


def _differences(
    vocabulary: Vocabulary, expected: Iterable[tuple[str, Sequence[int]]]
) -> list[str]:
    problems = []
    for text, ids in expected:
        stored = vocabulary.tokenize(text, special=True)
        if stored != list(ids):
            start = common_prefix(stored, ids)
            problems.append(
                f"{text[:40]!r} gives {stored[start : start + 4]} from token {start} on; "
                f"expected {list(ids[start : start + 4])}"
            )
    return problems
