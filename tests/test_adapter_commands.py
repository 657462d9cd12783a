"""--adapter in run, chat, batch and bench, as a user meets it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convert import convert, open_adapter, read_config, write_adapter
from llamacli.chat import ChatSession
from llamacli.engine import AdapterChoice, Engine, EngineSettings, SamplingSettings
from llamacli.repl.saved import head_of
from llamacli.repl.start import Wanted, _adapters, _opener
from llamacli.repl.state import model_line
from tests.standins import adapter as standin
from tests.standins.checkpoint import write_checkpoint
from tests.test_adapter_run import CONFIG
from tests.test_cli import llamacli, one_line

SETTINGS = EngineSettings(context=128, threads=1, device="cpu")
ANSWER = ("--temp", "0", "-n", "12", "-c", "128")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("adapters")
    write_checkpoint(place / "base", CONFIG)
    convert(place / "base", place / "base.gguf", "Q8_0")
    shape = read_config(place / "base")
    source = standin.write_adapter(place / "lora", CONFIG, deviation=0.3)
    write_adapter(open_adapter(source, shape), shape, place / "lora.gguf")
    wide = {**CONFIG, "intermediate_size": 128}
    write_checkpoint(place / "wide", wide)
    convert(place / "wide", place / "wide.gguf", "Q8_0")
    return place


def test_run_and_batch_agree_and_differ_from_the_base(folder: Path, tmp_path: Path) -> None:
    model, lora = folder / "base.gguf", folder / "lora.gguf"
    answers = [
        json.loads(llamacli("run", "hi", "-m", model, *ANSWER, "--json", *given).stdout)["text"]
        for given in (
            [],
            ["--adapter", lora],
            ["--adapter", f"{lora}:0.5"],
            ["--adapter", f"{lora}:0"],
        )
    ]
    assert answers[0] == answers[3] and len(set(answers)) == 3
    (tmp_path / "lines").write_text("hi\n")
    given = ("-m", model, *ANSWER, "--quiet", "--adapter", lora)
    for way in ([], ["--exact"]):
        line = llamacli("batch", tmp_path / "lines", *given, *way).stdout
        assert json.loads(line)["text"] == answers[1]
    assert llamacli("chat", "-m", model, *ANSWER, "--adapter", lora, stdin="hi").stdout.strip()


def test_a_name_in_the_store(folder: Path, store: Path) -> None:
    (store / "adapters").mkdir(parents=True)
    (store / "adapters" / "mine.gguf").write_bytes((folder / "lora.gguf").read_bytes())
    llamacli("run", "hi", "-m", folder / "base.gguf", *ANSWER, "--adapter", "mine:-1")
    said = one_line(llamacli("run", "hi", "-m", folder / "base.gguf", "--adapter", "nine", check=4))
    assert "there is no adapter nine; the store has mine" in said


@pytest.mark.parametrize(
    ("model", "adapter", "code", "fault"),
    [
        ("wide.gguf", "lora.gguf", 3, "is it the adapter of another model than wide.gguf?"),
        ("base.gguf", "base.gguf", 3, "not 'adapter': it is a model"),
        ("lora.gguf", "lora.gguf", 3, "it is an adapter, not a model; give it with --adapter"),
        ("base.gguf", "lora.gguf:nan", 2, "the scale of"),
        ("base.gguf", "lora", 2, "is a folder; convert it first"),
    ],
)
def test_what_does_not_go_together_is_named(
    model: str, adapter: str, code: int, fault: str, folder: Path
) -> None:
    given = ("-m", folder / model, *ANSWER, "--adapter", folder / adapter)
    assert fault in one_line(llamacli("run", "hi", *given, check=code))


def test_a_cache_of_a_prompt_is_of_its_adapters(folder: Path, store: Path) -> None:
    long = "words that are long enough to be worth a file of their own, again and again " * 2
    common = ("run", long, "-m", folder / "base.gguf", *ANSWER, "-c", "256", "--cache", "auto")
    for given, files in (([], 1), (["--adapter", folder / "lora.gguf"], 2), ([], 2)):
        llamacli(*common, *given)
        assert len([*(store / "cache").glob("*.kv")]) == files


def test_bench_tells_of_them(folder: Path) -> None:
    sizes = ("--depth", "0", "--prompt", "8", "--answer", "2", "--runs", "1", "--json")
    given = ("--adapter", f"{folder / 'lora.gguf'}:0.5", "--quiet")
    told = json.loads(llamacli("bench", folder / "base.gguf", *sizes, *given).stdout)
    assert told["settings"]["adapters"] == [f"{folder / 'lora.gguf'}:0.5"]


def wanted(folder: Path, *adapters: AdapterChoice) -> Wanted:
    from llamacli.engine import Asked

    asked = Asked(context=128, threads=1, device="cpu", adapters=adapters, speculate="off")
    return Wanted(str(folder / "base.gguf"), False, asked)


def test_a_chat_remembers_its_adapters(
    folder: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = AdapterChoice(folder / "lora.gguf", 0.5)
    with Engine(folder / "base.gguf", replace(SETTINGS, adapters=(choice,))) as engine:
        session = ChatSession(engine, SamplingSettings(temperature=0))
        head = head_of(session, "base")
        assert model_line(engine).endswith(", with lora:0.5")
    assert head.settings["adapters"] == [f"{folder / 'lora.gguf'}:0.5"]
    assert _adapters(head.settings) == (choice,)
    gone: dict[str, Any] = {"adapters": ["/nowhere/lora.gguf:0.5"]}
    assert _adapters(gone) == ()
    assert "the chat goes on without its adapters" in capsys.readouterr().err


def test_another_model_has_none_of_them(folder: Path) -> None:
    choice = AdapterChoice(folder / "lora.gguf")
    chat = wanted(folder, choice)
    open_model = _opener(chat, folder / "base.gguf", chat.asked)
    with open_model(str(folder / "wide.gguf"), lambda: None) as engine:
        assert engine.adapters == []
    with open_model(str(folder / "base.gguf"), lambda: None) as engine:
        assert len(engine.adapters) == 1
