"""Texts as tokens: by llama.cpp with the file's vocabulary, and by the tokenizers library.

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
from llamacli.verify.corpus import TEXTS, special_texts
from llamacli.verify.rows import Row, judged, skipped

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
