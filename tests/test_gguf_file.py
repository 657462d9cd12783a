"""GGUF files are checked in Python before llama.cpp sees them: cut, bent and forged ones."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from convert import convert
from llamacli.errors import InvalidModelError, NotFoundError, UsageError
from llamacli.gguf.check import check_llama, read_header
from llamacli.gguf.file import HeaderError, read_beginning, read_gguf
from tests.standins.tiny import write_model

DEMO = Path(__file__).resolve().parents[1] / "llamacli" / "demo"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    convert(DEMO, path, "Q4_K_M")
    return path.read_bytes()


def check(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    check_llama(read_gguf(path))


def test_reads_what_the_gguf_package_reads(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(good)
    file, reference = read_gguf(path), gguf.GGUFReader(path)
    assert check_llama(file).blocks == 4
    assert [t.name for t in file.tensors] == [t.name for t in reference.tensors]
    assert [t.offset for t in file.tensors] == [t.data_offset for t in reference.tensors]
    assert file.metadata["general.name"] == reference.fields["general.name"].contents()
    tokens = [token.decode() for token in file.strings("tokenizer.ggml.tokens")]
    assert tokens == reference.fields["tokenizer.ggml.tokens"].contents()


def test_a_header_is_read_from_memory(
    good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the rest of the file is there, by no file that a killed program would leave."""
    path = tmp_path / "good.gguf"
    path.write_bytes(good)
    file = read_gguf(path)
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: pytest.fail("a folder is made"))
    contents, shape = read_header(good[: file.data_offset], len(good), "good.gguf")
    assert contents.tensors == file.tensors and shape == check_llama(file)
    assert contents.strings("tokenizer.ggml.tokens") == file.strings("tokenizer.ggml.tokens")
    for end in range(8, file.data_offset, 997):
        with pytest.raises(HeaderError, match=r"takes more than|ends within") as raised:
            read_beginning(good[:end], len(good), "good.gguf")
        assert raised.value.position > end


def test_cut_anywhere_is_refused(good: bytes, tmp_path: Path) -> None:
    rng = random.Random(1)
    for size in [0, 1, 4, 8, 23, len(good) - 1, *(rng.randrange(len(good)) for _ in range(200))]:
        with pytest.raises(InvalidModelError):
            check(tmp_path / "cut.gguf", good[:size])


def test_mutants_are_read_or_refused_by_name(good: bytes, tmp_path: Path) -> None:
    """Bytes of the header set to anything: never another exception than the named one."""
    rng = random.Random(2)
    refused = 0
    for _ in range(400):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(4000)
            data[at : at + 1] = rng.choice((b"\xff", b"\x00", rng.randbytes(1)))
        try:
            check(tmp_path / "mutant.gguf", bytes(data))
        except InvalidModelError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (0, b"GGML", "not a GGUF file"),
        (4, struct.pack("<I", 1), "version 1"),
        (4, struct.pack(">I", 3), "big-endian"),
        (8, struct.pack("<Q", 1 << 60), "claims 1152921504606846976 tensors"),
        (16, struct.pack("<Q", 1 << 60), "claims 1152921504606846976 keys"),
        (24, struct.pack("<Q", 1 << 60), "key 0"),
    ],
)
def test_forged_headers(good: bytes, tmp_path: Path, offset: int, value: bytes, words: str) -> None:
    data = good[:offset] + value + good[offset + len(value) :]
    with pytest.raises(InvalidModelError, match=words):
        check(tmp_path / "forged.gguf", data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.add_string("general.architecture", "qwen2"), "architecture"),
        (lambda w: w.add_string("llama.rope.scaling.type", "llama3"), "scaling"),
        (lambda w: w.add_float32("llama.rope.freq_base", float("nan")), "freq_base"),
        (lambda w: w.add_uint32("llama.attention.head_count", 3), "length 21"),
        (lambda w: w.add_uint32("llama.block_count", 3), "blk.2"),
        (lambda w: w.add_uint32("tokenizer.ggml.eos_token_id", 1 << 20), "eos_token_id"),
        (lambda w: w.add_array("llamacli.end_token_ids", [5, 1 << 20]), "end_token_ids"),
        (lambda w: w.add_array("llamacli.end_token_ids", ["5"]), "end_token_ids"),
        (lambda w: w.add_uint32("general.alignment", 7), "alignment"),
        (lambda w: w.add_float32("general.alignment", 32.0), "alignment"),
        (lambda w: w.add_array("llamacli.nested", [[1, 2], [3]]), "nested|array"),
    ],
)
def test_models_that_llama_cpp_would_abort_on(
    change: Callable[[gguf.GGUFWriter], None], words: str, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "bent.gguf", change=change)
    with pytest.raises(InvalidModelError, match=words):
        check_llama(read_gguf(path))


def test_a_model_of_that_maker_passes_unchanged(tmp_path: Path) -> None:
    assert check_llama(read_gguf(write_model(tmp_path / "tiny.gguf"))).blocks == 2


def test_no_file_and_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_gguf(tmp_path / "nowhere.gguf")
    with pytest.raises(UsageError, match="is a folder"):
        read_gguf(tmp_path)
