"""Names and paths as Windows has them: what we make of them, and what we take them apart to."""

import json
from functools import partial
from pathlib import Path, PureWindowsPath

import pytest

from llamacli.commands import adapting
from llamacli.errors import NotFoundError, UsageError
from llamacli.home import check_name, is_elsewhere, possible_name
from llamacli.hub import parse_wanted
from llamacli.hub.index import can_be_here
from llamacli.machine.devices import Machine, rebuild_command
from llamacli.mcp_client.config import words_of
from llamacli.models import split_scale
from llamacli.models.names import find_model, is_path
from llamacli.prompt.input import decode
from llamacli.workers import parse_workers

NAMES = {
    "Llama-3.1-8B-Q4_K_M.gguf": "Llama-3.1-8B-Q4_K_M.gguf",
    "con.gguf": "_con.gguf",
    "AUX": "_AUX",
    "nul .v2-Q8_0.gguf": "_nul .v2-Q8_0.gguf",
    "COM1.x.gguf": "_COM1.x.gguf",
    "lpt\u00b2.gguf": "_lpt\u00b2.gguf",
    "console.gguf": "console.gguf",
    "com10.gguf": "com10.gguf",
    "a:b.gguf": "a_b.gguf",
    'what?<it>|"is"*.gguf': "what__it___is__.gguf",
    "ends. .": "ends",
    "...": "_",
    "C:\\models\\x.gguf": "C__models_x.gguf",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_gets_a_name_that_windows_can_have(name: str) -> None:
    made = possible_name(name, windows=True)
    assert made == NAMES[name]
    assert not PureWindowsPath(made).is_reserved() and PureWindowsPath(made).name == made
    assert possible_name(name, windows=False) == name


@pytest.mark.parametrize("name", ["con", "Nul", "com1.x", "ends."])
def test_a_session_is_not_called_as_a_device(name: str) -> None:
    assert check_name(name, "a session's", windows=False) == name
    with pytest.raises(UsageError, match="Windows has no files"):
        check_name(name, "a session's", windows=True)


@pytest.mark.parametrize("name", ["C:evil.json", "sub/aux.json", "sub/x:y", "x./y", "NUL"])
def test_a_file_of_the_hub_that_windows_cannot_have_is_not_there(name: str) -> None:
    """C: in a path leads out of the Hub's cache, and x:y writes into another file."""
    assert can_be_here(name, windows=False) and not can_be_here(name, windows=True)
    assert can_be_here("sub/model-00001-of-00002.safetensors", windows=True)


@pytest.mark.parametrize(
    "path",
    ["\\\\host\\share\\base", "//host/share/base", "\\\\.\\PhysicalDrive0", "\\\\?\\UNC\\h\\s\\x"],
)
def test_a_path_to_another_machine_is_known_as_one(path: str) -> None:
    assert is_elsewhere(path, windows=True) and not is_elsewhere(path, windows=False)
    for here in ("C:\\models\\base", "models\\base", "owner/name", "C:base", "\\base"):
        assert not is_elsewhere(here, windows=True)


def test_a_strangers_adapter_has_no_other_machine_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows logs in there with the user's own name, and a hash of the password."""
    monkeypatch.setattr(adapting, "is_elsewhere", partial(is_elsewhere, windows=True))
    named = {
        "peft_type": "LORA",
        "r": 8,
        "lora_alpha": 8,
        "base_model_name_or_path": "\\\\host\\share\\base",
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(named), encoding="utf-8")
    with pytest.raises(UsageError, match="on another machine"):
        adapting.base_config(None, tmp_path, None)


def test_an_adapters_base_may_be_any_model_that_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose checkpoint is a folder here, as the built-in one's is."""
    monkeypatch.chdir(tmp_path)
    assert adapting.base_config("demo", tmp_path, None).hidden_size


@pytest.mark.parametrize(
    ("given", "name", "scale"),
    [
        ("C:\\adapters\\one.gguf", "C:\\adapters\\one.gguf", 1.0),
        ("C:\\adapters\\one.gguf:0.5", "C:\\adapters\\one.gguf", 0.5),
        ("C:/adapters/one.gguf:-2", "C:/adapters/one.gguf", -2.0),
        ("C:one.gguf", "C:one.gguf", 1.0),
        ("\\\\host\\share\\one.gguf:0", "\\\\host\\share\\one.gguf", 0.0),
    ],
)
def test_a_drive_is_not_an_adapters_scale(given: str, name: str, scale: float) -> None:
    assert split_scale(given) == (name, scale)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("C:\\models\\x.gguf", True),
        ("C:x.gguf", True),
        ("models\\x.GGUF", True),
        (".\\x", True),
        ("..\\x", True),
        ("/models/x", True),
        ("~/x", True),
        ("x.gguf", False),
        ("llama-3.1-8b:Q4_K_M", False),
        ("owner/name", False),
    ],
)
def test_a_models_name_is_told_from_a_path_of_windows(name: str, path: bool) -> None:
    assert is_path(name, PureWindowsPath) == path


@pytest.mark.parametrize("name", ["C:\\no\\such.gguf", "someone\\model", "D:", "x:Q4_K_M"])
def test_no_path_of_windows_is_taken_for_a_models_name(name: str) -> None:
    with pytest.raises(NotFoundError):
        find_model(name)


@pytest.mark.parametrize("text", ["C:\\x.gguf", "owner\\repo", "C:/owner/repo", "owner/repo\\x"])
def test_no_path_of_windows_is_taken_for_an_id_on_the_hub(text: str) -> None:
    with pytest.raises(UsageError, match="names no GGUF file on the Hub"):
        parse_wanted(text)


@pytest.mark.parametrize("text", ["C:\\worker", "C:/worker", "\\\\host\\share"])
def test_no_path_of_windows_is_taken_for_a_worker(text: str) -> None:
    with pytest.raises(UsageError, match="no worker's address"):
        parse_workers(text)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("C:\\Python\\python.exe -m server", ["C:\\Python\\python.exe", "-m", "server"]),
        ('"C:\\Program Files\\node.exe" s.js', ["C:\\Program Files\\node.exe", "s.js"]),
        ("npx 'a b' # here", ["npx", "a b", "#", "here"]),
        ('x "" \\\\h\\s', ["x", "", "\\\\h\\s"]),
    ],
)
def test_backslashes_part_the_folders_of_a_servers_command(command: str, words: list[str]) -> None:
    assert words_of(command, windows=True) == words


def test_a_servers_command_elsewhere_is_a_shells() -> None:
    assert words_of(r"a\ b 'c d'", windows=False) == ["a b", "c d"]
    for windows in (True, False):
        with pytest.raises(ValueError, match="quotation"):
            words_of('a "b', windows=windows)


def test_the_command_that_compiles_anew_is_for_powershell() -> None:
    made = rebuild_command("cuda", Machine(windows=True))
    assert made.startswith('$env:CMAKE_ARGS="-DGGML_RPC=on -DGGML_CUDA=on"; & \'')
    made = rebuild_command("cuda", Machine(windows=True, pip=False))
    assert made.startswith("$env:CMAKE_ARGS=") and "; uv pip install --python '" in made


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_as_programs_of_windows_write_it(encoding: str) -> None:
    assert decode("Grüße\r\n".encode(encoding), "it") == "Grüße\r\n"
    with pytest.raises(UsageError, match="is not UTF-16 at byte"):
        decode(b"\xff\xfea", "it")
