"""Vocabularies that passed once are recognized by their bytes, and by nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from llamacli.engine.engine import Engine
from llamacli.engine.settings import EngineSettings
from llamacli.errors import InvalidModelError
from llamacli.gguf.check import check_llama
from llamacli.gguf.file import GGUFFile, read_gguf
from llamacli.gguf.known import KnownStrings
from llamacli.gguf.remembered import CHECKS, KEYS, LARGEST, recall, remember
from tests.standins.tiny import write_model

TOKENS = KEYS[0]


@pytest.fixture
def good(tmp_path: Path) -> GGUFFile:
    file = read_gguf(write_model(tmp_path / "good.gguf"))
    check_llama(file)
    return file


def kept(store: Path) -> Path:
    return store / "vocabularies.json"


def write(path: Path, *arrays: object, checks: int = CHECKS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"checks": checks, "arrays": arrays}))


def twins(writer: gguf.GGUFWriter) -> None:
    """Two tokens that are the same: llama.cpp would abort."""
    texts = writer.kv_data[0][TOKENS].value
    texts[7] = texts[8]


def test_an_engine_recognizes_the_vocabulary_of_an_earlier_one(tmp_path: Path) -> None:
    first, second = (write_model(tmp_path / f"{i}.gguf", seed=i) for i in range(2))
    settings = EngineSettings(context=64, threads=1)
    with Engine(first, settings) as engine:
        assert not engine.file.known
        tokens = engine.vocabulary.tokenize("some words")
    with Engine(second, settings) as engine:
        assert engine.file.known == set(KEYS)
        assert engine.vocabulary.tokenize("some words") == tokens
        assert engine.file.strings(TOKENS) == read_gguf(first).strings(TOKENS)


def test_what_follows_a_recognized_vocabulary_is_read_as_ever(good: GGUFFile) -> None:
    remember(good)
    again = read_gguf(good.path, recall())
    assert again.known == set(KEYS)
    assert replace(again, known=frozenset()) == good
    assert check_llama(again) == check_llama(good)


def test_another_vocabulary_of_that_size_is_checked(good: GGUFFile, tmp_path: Path) -> None:
    remember(good)
    bad = read_gguf(write_model(tmp_path / "bad.gguf", change=twins), recall())
    assert bad.metadata[TOKENS].length == good.metadata[TOKENS].length
    assert bad.known == {KEYS[1]}
    with pytest.raises(InvalidModelError, match="twice"):
        check_llama(bad)


def test_every_byte_counts(good: GGUFFile, tmp_path: Path) -> None:
    remember(good)
    data = bytearray(good.path.read_bytes())
    values = good.metadata[TOKENS]
    for place in (0, values.nbytes // 2, values.nbytes - 1):
        path = tmp_path / "changed.gguf"
        at = values.offset + place
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            assert TOKENS not in read_gguf(path, recall()).known
        except InvalidModelError:
            continue  # a string's length, which the rest doesn't fit


def test_a_file_that_changes_while_it_is_read_leaves_nothing(
    good: GGUFFile, tmp_path: Path, store: Path
) -> None:
    write_model(good.path, change=twins)
    remember(good)
    assert not kept(store).exists()


@pytest.mark.parametrize("nbytes", [0, -1, -(1 << 70), 1 << 70, 1 << 63, 3])
def test_lengths_that_lie(good: GGUFFile, store: Path, nbytes: int) -> None:
    remember(good)
    sound = next(one for one in recall() if one.key == TOKENS)
    write(kept(store), [TOKENS, sound.length, nbytes, sound.sha256])
    again = read_gguf(good.path, recall())
    assert not again.known
    assert again == good


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "[" * 100_000, '{"checks": 1}', '{"checks": 1, "arrays": [[1]]}',
     '{"checks": 1, "arrays": [["k", true, 2, "x"]]}', '{"checks": 1, "arrays": 7}', "\0" * 99_999],
)  # fmt: skip
def test_what_is_damaged_counts_for_nothing(good: GGUFFile, store: Path, text: str) -> None:
    remember(good)
    assert recall()
    kept(store).write_text(text)
    assert recall() == ()
    remember(good)
    assert len(recall()) == 2


def test_what_passed_an_earlier_check_is_checked_again(good: GGUFFile, store: Path) -> None:
    remember(good)
    write(kept(store), *json.loads(kept(store).read_text())["arrays"], checks=CHECKS - 1)
    assert recall() == ()


def test_the_oldest_go_first(good: GGUFFile, store: Path) -> None:
    many = [KnownStrings("some.key", i, i, "0" * 64) for i in range(40)]
    write(kept(store), *([one.key, one.length, one.nbytes, one.sha256] for one in many))
    remember(good)
    recalled = recall()
    assert {one.key for one in recalled[:2]} == set(KEYS)
    assert recalled[2:] == tuple(many[:14])


def test_what_would_take_gigabytes_is_not_read_again(good: GGUFFile) -> None:
    huge = replace(good.metadata[KEYS[1]], nbytes=LARGEST + 1)
    remember(replace(good, metadata={**good.metadata, KEYS[1]: huge}))
    assert recall() == ()


def test_a_file_that_is_gone_leaves_nothing(good: GGUFFile) -> None:
    good.path.unlink()
    remember(good)
    assert recall() == ()


def test_a_store_that_cannot_be_written(good: GGUFFile, store: Path) -> None:
    store.parent.mkdir(exist_ok=True)
    store.write_text("a file where the folder should be")
    remember(good)
    assert recall() == ()
