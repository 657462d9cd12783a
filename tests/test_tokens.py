"""llamacli tokens: the vocabulary searched, texts and conversations as the ids that models read."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamacli.gguf.file import MERGES, TOKENS, read_gguf
from llamacli.show.vocabulary import find_tokens, read_tokens
from tests.standins.checkpoint import TEMPLATE
from tests.standins.program import PROGRAM, run_program
from tests.standins.tiny import write_model
from tests.standins.waiting import PATIENCE
from tests.systems import needs_signals

MODELS = ("Meta-Llama-3-8B-Instruct", "Meta-Llama-3.1-8B-Instruct")
NAME = MODELS[1]
TEXT = 'Hello  wörld\n\t"12345" \\ 👩‍👩‍👧 \u202eabc<|eot_id|>\x00'
MESSAGES = [
    {"role": "system", "content": " Be kind. "},
    {"role": "user", "content": TEXT.replace("<|eot_id|>", "")},
    {"role": "assistant", "content": "naïve café 你好"},
    {"role": "user", "content": "مرحبا\n\n"},
]


def tokens(*arguments: str | Path, stdin: bytes = b"", check: int = 0) -> str:
    """Its stdout; on an expected error its one line on stderr."""
    child = run_program([*PROGRAM, "tokens", *arguments], input=stdin)
    assert child.returncode == check, child.stderr
    if check:
        assert child.stdout == b"" and child.stderr.count(b"\n") == 1
        return child.stderr.decode()
    return child.stdout.decode()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return write_model(path, weights=False, template=TEMPLATE)


@pytest.fixture(params=["folder", "gguf"])
def real(request: pytest.FixtureRequest, real_models: Path) -> Path:
    """Meta's vocabulary, in a checkpoint's folder and in a GGUF file."""
    return real_models / (NAME if request.param == "folder" else f"{NAME}.gguf")


# Finding


def test_every_token_that_contains_yes(real: Path, llama3_files: Path) -> None:
    output = tokens(real, "--find", "yes")
    assert output == (llama3_files / "vocabulary-yes.txt").read_text(encoding="utf-8")


def test_finding_in_any_case_exactly_and_by_pattern(real: Path) -> None:
    every = read_tokens(real if real.is_dir() else read_gguf(real))
    assert [token.id for token in every] == list(range(128_256))

    def texts(wanted: str, **how: bool) -> list[str]:
        return [token.written for token in find_tokens(every, wanted, **how)]

    assert texts("yes", exact=True) == ["yes"]
    assert texts(" yes", exact=True) == texts("Ġyes", exact=True) == ["Ġyes"]
    assert texts("^Ġyes", regex=True) == [t for t in texts("Ġyes") if t.startswith("Ġyes")]
    assert texts("<|eot_id|>", exact=True) == ["<|eot_id|>"]
    assert texts(r"^<\|.*\|>$", regex=True)[0] == "<|begin_of_text|>"
    assert "Ð¿ÑĢÐ¸" in texts("ПРИ")  # при, as byte-level BPE writes it
    assert len(texts("")) == 128_256


def test_what_is_printed_of_the_found(tiny: Path) -> None:
    assert tokens(tiny, "--find", "<|EOT_ID|>") == "777 <|eot_id|>\n"
    assert tokens(tiny, "--find", "<|eot_id|>", "--exact", "--ids") == "777\n"
    parsed = json.loads(tokens(tiny, "--find", "Ġ", "--json"))
    assert parsed[0] == {"id": 32, "token": "Ġ", "text": " "}
    assert json.loads(tokens(tiny, "--find", "Ġ", "--ids", "--json"))[0] == 32
    nothing = run_program([*PROGRAM, "tokens", tiny, "--find", "zzzz"])
    assert nothing.returncode == 0 and nothing.stdout == b"" and b"no token" in nothing.stderr


@needs_signals
def test_a_pattern_without_end_is_stopped_by_ctrl_c() -> None:
    script = (
        "from llamacli.show.vocabulary import Token, find_tokens\n"
        "print('ready', flush=True)\n"
        "try: find_tokens([Token(0, 'a' * 64 + '!', '')], '^(a+)+$', regex=True)\n"
        "except KeyboardInterrupt: print('stopped')"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=PATIENCE)[0] in ("stopped\n", "")


# Texts


def test_a_texts_tokens_are_hugging_faces(real: Path, real_models: Path) -> None:
    reference = pytest.importorskip("tokenizers").Tokenizer.from_file(
        str(real_models / NAME / "tokenizer.json")
    )
    text = TEXT.replace("\x00", "").replace("<|eot_id|>", "")
    expected = reference.encode(text, add_special_tokens=False).ids
    assert json.loads(tokens(real, text, "--ids", "--json")) == expected
    assert tokens(real, "--ids", stdin=text.encode()).split() == list(map(str, expected))


def test_pieces_put_together_are_the_text(tiny: Path) -> None:
    rows = json.loads(tokens(tiny, "--json", stdin=TEXT.encode()))
    assert bytes(b for row in rows for b in row["bytes"]).decode() == TEXT
    assert not any(row["control"] for row in rows)
    lines = tokens(tiny, stdin=TEXT.encode()).splitlines()
    assert len(lines) == len(rows) and all(line.isprintable() for line in lines)
    quoted = [line.split(" ", 1) for line in lines]
    assert [int(token) for token, _ in quoted] == [row["id"] for row in rows]
    assert all(piece[0] == piece[-1] == '"' for _, piece in quoted)


def test_control_tokens_only_on_purpose(tiny: Path) -> None:
    assert len(tokens(tiny, "<|eot_id|>").splitlines()) > 1
    rows = json.loads(tokens(tiny, "a<|eot_id|>", "--special", "--json"))
    assert [row["control"] for row in rows] == [False, True] and rows[1]["id"] == 777


def test_nothing_gives_nothing(tiny: Path) -> None:
    assert tokens(tiny, "") == "" and tokens(tiny, stdin=b"") == ""
    assert json.loads(tokens(tiny, "", "--json")) == []


def test_bytes_that_are_not_utf8(tiny: Path) -> None:
    told = tokens(tiny, stdin=b"ab\xff", check=2)
    assert "stdin is not UTF-8 at byte 2" in told and "--errors replace" in told
    rows = json.loads(tokens(tiny, "--errors", "replace", "--json", stdin=b"ab\xff"))
    assert bytes(b for row in rows for b in row["bytes"]).decode() == "ab\ufffd"
    assert "the byte 0xff, which isn't UTF-8" in tokens(tiny, os.fsdecode(b"\xff"), check=2)


def test_metas_vocabulary_is_a_known_one(real_models: Path) -> None:
    assert read_gguf(real_models / f"{NAME}.gguf").known == {TOKENS, MERGES}


# Conversations


@pytest.mark.parametrize("name", MODELS)
def test_a_conversations_ids_are_those_of_transformers(
    name: str, real_models: Path, reference: Callable[[str], Any], tmp_path: Path
) -> None:
    expected = reference(name).apply_chat_template(
        MESSAGES, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    file = tmp_path / "messages.json"
    file.write_text(json.dumps(MESSAGES))
    output = tokens(real_models / f"{name}.gguf", "--messages", file, "--ids", "--json")
    assert json.loads(output) == expected
    lines = tokens(real_models / name, "--messages", "-", stdin=file.read_bytes()).splitlines()
    assert [int(line.split()[0]) for line in lines] == expected
    assert lines[0] == '128000 "<|begin_of_text|>"'


def test_the_date_of_a_template_that_asks_for_it(tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ strftime_now('%d %b %Y') }}"
    path = write_model(tmp_path / "dated.gguf", weights=False, template=template)
    given = json.dumps(MESSAGES).encode()
    rows = json.loads(
        tokens(path, "--messages", "-", "--date", "2031-02-03", "--json", stdin=given)
    )
    assert "".join(row["piece"] for row in rows[1:]) == "03 Feb 2031"


def test_a_model_without_a_template_gets_llama_3s(tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.gguf", weights=False)
    asked = json.dumps(MESSAGES)
    child = run_program([*PROGRAM, "tokens", path, "--messages", "-", "--json"], input=asked)
    assert b"Llama 3's is used" in child.stderr
    assert [r["piece"] for r in json.loads(child.stdout) if r["control"]].count("<|eot_id|>") == 4


# Wrong use


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "words"),
    [
        (["x", "--find", "y"], "", 2, "TEXT and --find exclude each other"),
        (["--find", "y", "--messages", "-"], "", 2, "exclude each other"),
        (["x", "--exact"], "", 2, "go with --find"),
        (["--find", "y", "--exact", "--regex"], "", 2, "exclude each other"),
        (["--find", "(", "--regex"], "", 2, "not a regular expression"),
        (["--find", "y", "--special"], "", 2, "--special goes with TEXT"),
        (["x", "--date", "2031-02-03"], "", 2, "--date goes with --messages"),
        (["--messages", "none.json"], "", 4, "none.json"),
        (["--messages", "-"], "{", 2, "not JSON"),
        (["--messages", "-"], "[]", 2, "list of messages"),
        (["--messages", "-"], '[{"role": "user"}]', 2, "message 1 has no content"),
        (["--messages", "-"], '[{"role": "user", "content": "\\ud800"}]', 2, "surrogate"),
        (["--messages", "-"], '[{"role": "king", "content": "x"}]', 2, "the role 'king'"),
        (["--messages", "-"], "[" * 100_000, 2, "not JSON"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], stdin: str, code: int, words: str, tiny: Path
) -> None:
    assert words in tokens(tiny, *arguments, stdin=stdin.encode(), check=code)


def test_models_that_have_no_vocabulary_to_read(tmp_path: Path, real_models: Path) -> None:
    assert "no config.json" in tokens(tmp_path, "x", check=3)
    assert "tokenizer.json is missing" in tokens(tmp_path, "--find", "x", check=3)
    assert "not in the store" in tokens("llama-3.1-8b", "x", check=4)
    shutil.copytree(real_models / NAME, tmp_path / "cut")
    (tmp_path / "cut" / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}}}')
    assert "tokenizer.json" in tokens(tmp_path / "cut", "--find", "x", check=3)
