"""Files made to swell, hang or paint a terminal: each is refused, or harmless, and quickly so."""

import json
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest

from convert import CheckpointError, convert, named_quantization, write_gguf
from convert.checkpoint import open_checkpoint
from convert.metadata import CONFIG_KEY, read_model_card
from llamacli.chat.conversation import replay
from llamacli.chat.file import MAX_LINES, read_session
from llamacli.errors import InvalidModelError
from llamacli.gguf.check import check_llama
from llamacli.gguf.file import read_gguf
from llamacli.models import registry
from llamacli.show import find_config, find_metadata, folder_vocabulary
from tests.fuzz.kinds import BOMB
from tests.fuzz.stored import TOML
from tests.standins.tiny import write_model
from tests.systems import PLATFORM, needs_limits, needs_pipes

Make = Callable[..., Path]


@pytest.mark.parametrize("front", [BOMB, "a: " + "[" * 100_000, "a: x" * 200_000])
def test_a_model_card_that_swells_costs_the_card_alone(
    front: str, checkpoint: Make, tmp_path: Path
) -> None:
    folder = checkpoint()
    (folder / "README.md").write_text(f"---\nlicense: llama3\n{front}\n---\n")
    with pytest.raises(ValueError):
        read_model_card(folder)
    convert(folder, tmp_path / "out.gguf", "Q8_0")
    assert "general.license" not in read_gguf(tmp_path / "out.gguf").metadata


def test_a_model_card_gives_what_gguf_can_hold(checkpoint: Make, tmp_path: Path) -> None:
    folder = checkpoint()
    card: dict[str, Any] = {"license": "llama3", "tags": ["x", "y"]}
    odd = {"model_name": ["a", "list"], "version": 3, "base_model": ["a/b"] * 25_000}
    (folder / "README.md").write_text(f"---\n{json.dumps(card | odd)}\n---\ntext")
    assert read_model_card(folder) == card
    convert(folder, tmp_path / "out.gguf", "Q8_0")
    assert read_gguf(tmp_path / "out.gguf").metadata["general.license"] == "llama3"


@needs_pipes
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
@pytest.mark.parametrize("device", ["/dev/zero", "pipe"])
def test_links_to_what_has_no_end(name: str, device: str, checkpoint: Make, tmp_path: Path) -> None:
    folder = checkpoint()
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "pipe")
    (folder / name).symlink_to(tmp_path / device)
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_checkpoint(folder)


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\xed\xa0\x80"'])
def test_half_a_surrogate_pair_is_refused_where_it_is_read(text: bytes, checkpoint: Make) -> None:
    """It could not be written into the file, which has config.json whole."""
    folder = checkpoint()
    config = (folder / "config.json").read_bytes().rstrip(b"}\n")
    (folder / "config.json").write_bytes(config + b', "note": "\\ud83e\\udd99"}')
    assert open_checkpoint(folder).config.raw["note"] == "🦙"
    (folder / "config.json").write_bytes(config + b', "note": ' + text + b"}")
    with pytest.raises(CheckpointError, match=r"config\.json: it is not valid JSON"):
        open_checkpoint(folder)


def test_json_that_can_be_read_but_is_too_deep_to_be_written(
    checkpoint: Make, tmp_path: Path
) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    opened = replace(open_checkpoint(checkpoint()), generation_config={"note": deep})
    with pytest.raises(CheckpointError, match=r"generation_config\.json: it is nested too deep"):
        write_gguf(opened, tmp_path / "out.gguf", named_quantization("Q8_0"))
    while deep:  # freed one by one: all at once would take a deep stack
        (deep,) = deep


@pytest.mark.skipif(PLATFORM != "linux", reason="other systems' names are Unicode")
def test_a_folders_name_that_is_not_unicode_is_written_as_well_as_it_can_be(
    checkpoint: Make, tmp_path: Path
) -> None:
    folder = checkpoint().rename(tmp_path / os.fsdecode(b"caf\xe9"))
    convert(folder, tmp_path / "out.gguf", "Q8_0")
    assert "\ufffd" in read_gguf(tmp_path / "out.gguf").metadata["general.name"]
    assert folder_vocabulary(folder).tokenize("a")


@needs_limits
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_json_that_would_swell(name: str, checkpoint: Make) -> None:
    """The JSON module makes up to 35 bytes of one: too long texts aren't given to it."""
    folder = checkpoint()
    text = b'{"a":[' + b"[]," * (7 << 20) + b"[]]}"
    length = len(text).to_bytes(8, "little") if name.endswith("tensors") else b""
    (folder / name).write_bytes(length + text)
    script = f"""
import resource
from pathlib import Path
from convert import CheckpointError
from convert.checkpoint import open_checkpoint
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    open_checkpoint(Path({str(folder)!r}))
except CheckpointError as error:
    assert "absurd" in str(error)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert int(child.stdout) < 100 << 10


def test_json_within_a_gguf_file_that_would_swell(tmp_path: Path) -> None:
    text = '{"a":[' + "[]," * (7 << 20) + "[]]}"
    path = write_model(tmp_path / "m.gguf", change=lambda w: w.add_string(CONFIG_KEY, text))
    file = read_gguf(path)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidModelError, match="llama_config holds no JSON object"):
            find_config(file)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.add_token_list(["語" * 9000, *map(str, range(1023))]), "absurdly long"),
        (lambda w: w.add_token_types([6] * 1024), "type 6"),
        (lambda w: w.add_array("tokenizer.chat_template", ["a", "b"]), "not a text"),
    ],
)
def test_vocabularies_that_llama_cpp_would_swell_or_stumble_over(
    change: Callable[[gguf.GGUFWriter], None], words: str, tmp_path: Path
) -> None:
    def forced(writer: gguf.GGUFWriter) -> None:
        for key in ("tokens", "token_type"):
            value = writer.kv_data[0].pop(f"tokenizer.ggml.{key}")
            change(writer)
            writer.kv_data[0].setdefault(f"tokenizer.ggml.{key}", value)

    path = write_model(tmp_path / "bent.gguf", change=forced)
    with pytest.raises(InvalidModelError, match=words):
        check_llama(read_gguf(path))


def test_a_vocabulary_of_a_terabyte_is_refused_unread(tmp_path: Path) -> None:
    file = read_gguf(write_model(tmp_path / "tiny.gguf"))
    key = "tokenizer.ggml.tokens"
    huge = replace(file.metadata[key], nbytes=1 << 40)
    with pytest.raises(InvalidModelError, match="absurdly long"):
        check_llama(replace(file, metadata={**file.metadata, key: huge}))


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def header(tensors: int, pairs: int, *rest: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + b"".join(rest)


STRING_KEY = struct.pack("<I", 8)
STRINGS, BYTES = (struct.pack("<II", 9, kind) for kind in (8, 0))
COUNTED = {
    "keys": (header(0, 1 << 17, text(b"a"), STRING_KEY, text(b"b")), "131072 keys; 65536"),
    "more keys than fit": (header(0, 1 << 60), "more than the file can hold"),
    "tensors": (header(1 << 17, 0, text(b"a")), "131072 tensors; 65536"),
    "more tensors than fit": (header(1 << 60, 0), "more than the file can hold"),
    "strings": (
        header(0, 1, text(b"a"), STRINGS, struct.pack("<Q", 1 << 36)),
        "68719476736 strings in a; 4194304",
    ),
    "strings of several arrays": (
        header(
            0,
            9,
            *(
                text(bytes([97 + i])) + STRINGS + struct.pack("<Q", 1 << 20) + bytes(8 << 20)
                for i in range(5)
            ),
        ),
        "4194304 strings",
    ),
    "bytes": (header(0, 1, text(b"a"), BYTES, struct.pack("<Q", 1 << 38)), "bytes of arrays"),
    "numbers": (header(0, 1, text(b"a"), BYTES, struct.pack("<Q", 1 << 27)), "of it"),
    "long numbers": (
        header(0, 1, text(b"a"), struct.pack("<IIQ", 9, 12, 1 << 20)),
        "would write 334495744 characters",
    ),
    "a text": (header(0, 1, text(b"a"), STRING_KEY, struct.pack("<Q", 1 << 38)), "bytes of text"),
}


@pytest.mark.parametrize("name", COUNTED)
def test_counts_in_a_large_sparse_file(name: str, tmp_path: Path) -> None:
    """A terabyte that costs no disk: what it claims is refused before memory or hours are spent."""
    path = tmp_path / "sparse.gguf"
    data, words = COUNTED[name]
    with path.open("wb") as file:
        file.write(data)
        file.truncate(1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidModelError, match=words):
            read_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_long_array_is_shown_by_its_first_values(tmp_path: Path) -> None:
    path, length = tmp_path / "sparse.gguf", 16 << 20
    with path.open("wb") as file:
        file.write(header(0, 1, text(b"a"), BYTES, struct.pack("<Q", length)))
        file.truncate(length + 4096)
    contents = read_gguf(path)
    tracemalloc.start()
    try:
        assert find_metadata(contents) == {"a": {"length": length, "first": [0, 0, 0]}}
        assert tracemalloc.get_traced_memory()[1] < 4 * length
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.add_token_list(["a"] * 1025 * 1024), "1049600 tokens"),
        (lambda w: w.add_token_merges(["a b"] * 1025 * 1024), "1049600 merges"),
    ],
)
def test_vocabularies_beyond_any_models(
    change: Callable[[gguf.GGUFWriter], None], words: str, tmp_path: Path
) -> None:
    def forced(writer: gguf.GGUFWriter) -> None:
        for key in ("tokens", "merges"):
            value = writer.kv_data[0].pop(f"tokenizer.ggml.{key}")
            change(writer)
            writer.kv_data[0].setdefault(f"tokenizer.ggml.{key}", value)

    path = write_model(tmp_path / "bent.gguf", change=forced)
    with pytest.raises(InvalidModelError, match=words):
        check_llama(read_gguf(path))


def test_errors_cannot_drive_a_terminal(checkpoint: Make, tmp_path: Path) -> None:
    name = "\x1b]0;owned\x07\x9b31m\u202e" + "x" * 5000
    folder = checkpoint()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    child = subprocess.run(
        [sys.executable, "-m", "llamacli", "convert", folder, "-o", tmp_path / "out.gguf"],
        capture_output=True,
        text=True,
    )
    assert child.returncode == 3 and child.stderr.count("\n") == 1
    assert child.stderr.rstrip("\n").isprintable() and "\\x1b]0;owned" in child.stderr
    assert len(child.stderr) < 1200


@pytest.mark.parametrize("text", TOML[:4])
def test_a_models_toml_takes_seconds_at_most(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tomllib's time grows with the square of what a dotted key has of dots."""
    (tmp_path / "models.toml").write_text(text)
    monkeypatch.setenv("LLAMACLI_CONFIG", str(tmp_path))
    with pytest.raises(InvalidModelError):
        registry.models()


def test_a_session_of_many_steps(tmp_path: Path) -> None:
    lines = [{"role": "user", "content": "a"}, {"event": "forget", "messages": 1}]
    path = tmp_path / "long.jsonl"
    path.write_bytes(b"".join(json.dumps(lines[i % 2]).encode() + b"\n" for i in range(MAX_LINES)))
    with path.open("rb") as file:
        assert len(read_session(file, "long").conversation.messages) == MAX_LINES // 2
    with path.open("ab") as file:
        file.write(b"{}\n")
    with path.open("rb") as file, pytest.raises(InvalidModelError, match="more than"):
        read_session(file, "long")


def test_replaying_together_is_replaying_one_by_one() -> None:
    def one(content: str, role: str = "user") -> dict[str, str]:
        return {"role": role, "content": content}

    steps = [
        *(one("be short", "system"), one("a"), one("b", "assistant"), one("c")),
        *({"event": "undo"}, one("d"), {"event": "forget", "messages": 2}, one("e", "assistant")),
        *({"event": "regenerate", "content": "f"}, one("g"), {"event": "edit", "content": "h"}),
    ]
    conversation = replay([])
    for step in steps:
        conversation = conversation.after(step)
    assert replay(steps) == conversation
    assert [m["content"] for m in conversation.messages] == ["be short", "a", "b", "d", "f", "h"]
