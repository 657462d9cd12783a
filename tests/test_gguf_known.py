"""Known vocabularies are recognized by their bytes, and by nothing else."""

import hashlib
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from llamacli.errors import InvalidModelError
from llamacli.gguf import file as reading
from llamacli.gguf.check import check_llama
from llamacli.gguf.contents import GGUFFile
from llamacli.gguf.file import KNOWN, MERGES, TOKENS, read_gguf
from tests.standins.tiny import write_model


@pytest.fixture
def good(tmp_path: Path) -> GGUFFile:
    file = read_gguf(write_model(tmp_path / "good.gguf"))
    check_llama(file)
    return file


def know(monkeypatch: pytest.MonkeyPatch, file: GGUFFile) -> None:
    known = {}
    for key in (TOKENS, MERGES):
        data = file.raw(key)
        known[key, file.metadata[key].length] = {len(data): hashlib.sha256(data).hexdigest()}
    monkeypatch.setattr(reading, "KNOWN", known)


def twins(writer: gguf.GGUFWriter) -> None:
    """Two tokens that are the same: llama.cpp would abort."""
    texts = writer.kv_data[0][TOKENS].value
    texts[7] = texts[8]


def test_the_known_are_told_by_their_digests() -> None:
    digests = [digest for one in KNOWN.values() for digest in one.values()]
    assert len(set(digests)) == len(digests) and all(len(bytes.fromhex(d)) == 32 for d in digests)


def test_what_follows_a_known_vocabulary_is_read_as_ever(
    good: GGUFFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, good)
    again = read_gguf(good.path)
    assert again.known == {TOKENS, MERGES}
    assert replace(again, known=frozenset()) == good
    assert again.strings(TOKENS) == good.strings(TOKENS)
    assert check_llama(again) == check_llama(good)


def test_another_vocabulary_of_that_size_is_checked(
    good: GGUFFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, good)
    bad = read_gguf(write_model(tmp_path / "bad.gguf", change=twins))
    assert bad.metadata[TOKENS].length == good.metadata[TOKENS].length
    assert bad.known == {MERGES}
    with pytest.raises(InvalidModelError, match="twice"):
        check_llama(bad)


def test_every_byte_counts(good: GGUFFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, good)
    data = bytearray(good.path.read_bytes())
    values = good.metadata[TOKENS]
    for place in (0, values.nbytes // 2, values.nbytes - 1):
        path = tmp_path / "changed.gguf"
        at = values.offset + place
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            assert TOKENS not in read_gguf(path).known
        except InvalidModelError:
            continue  # a string's length, which the rest doesn't fit


def test_a_file_that_ends_within_a_known_vocabulary_is_refused(
    good: GGUFFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, good)
    values = good.metadata[TOKENS]
    good.path.write_bytes(good.path.read_bytes()[: values.offset + values.nbytes - 1])
    with pytest.raises(InvalidModelError, match="ends within"):
        read_gguf(good.path)
