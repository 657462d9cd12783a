"""Nothing from a file drives the terminal: one door, and hostile texts of every kind at it."""

import ast
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import pytest

from llamacli import cli
from llamacli.chat.conversation import user
from llamacli.chat.file import SessionHead
from llamacli.chat.saved import create
from llamacli.terminal import as_json, say
from tests.standins.tiny import write_model
from tests.terminal import PROGRAM, Screen, Terminal

ROOT = Path(__file__).resolve().parents[1]
# May touch stdout and stderr, and why.
DOORS = {
    "terminal": "the door",
    "commands.printing": "its part for rich",
    "cli": "streams that the caller has closed",
}
OUTWARD = {"sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__", "typer.echo"}
ALLOWED = {"isatty", "fileno", "flush"}  # of a stream: none of them says anything on it
HOSTILE = "\x1b]0;owned\x07\x9b2Jowned\x7f\x1b[2Jowned\u202e"
DRIVING = ("\x1b]0;", "\x07", "\x9b", "\x7f", "\x1b[2J")


def outward(path: Path) -> Iterator[str]:
    """What a module says past the door: print, typer.echo, a stream's own methods, a Console."""
    parents: dict[ast.AST, ast.AST] = {}
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        parents |= dict.fromkeys(ast.iter_child_nodes(node), node)
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        parent = parents.get(node)
        asked = isinstance(parent, ast.Attribute) and parent.attr in ALLOWED
        handed = isinstance(parent, ast.Call) and node in parent.args  # to the door, or to termios
        if text in OUTWARD and not asked and not handed:
            yield f"{path}:{node.lineno}: {text}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "Console"):
            drawn = any(keyword.arg == "file" for keyword in node.keywords)
            if not (drawn and ast.unparse(node.func) == "Console"):  # a StringIO's, in markdown
                yield f"{path}:{node.lineno}: {ast.unparse(node.func)}"


def test_dim_lines_are_dim_where_there_are_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(**env: str) -> str:
        with monkeypatch.context() as there:
            for name, value in {"NO_COLOR": "", "TERM": "xterm", **env}.items():
                there.setenv(name, value)
            there.setattr(sys, "stderr", Screen())
            say(f"x{HOSTILE}", dim=True)
            assert isinstance(sys.stderr, Screen)
            return sys.stderr.text()

    shown = said()
    assert shown.startswith("\x1b[2mx") and shown.endswith("\x1b[22m\n")
    assert not any(driving in shown for driving in DRIVING)
    for plain in (said(NO_COLOR="1"), said(TERM="dumb")):
        assert "\x1b" not in plain and plain == shown[len("\x1b[2m") : -len("\x1b[22m\n")] + "\n"


def test_there_is_one_door() -> None:
    others = []
    for package in ("llamacli", "convert"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT / package).with_suffix("").parts)
            others += outward(path) if name not in DOORS else []
    assert not others


def on_terminal(monkeypatch: pytest.MonkeyPatch, *arguments: str, stdin: str = "") -> str:
    """What the program writes where stdout and stderr are terminals."""
    out, err = Screen(), Screen()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode("utf-8")), "utf-8"))
    del cli.app.registered_commands[:]
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    assert left.value.code != 1 or "batch" in arguments, err.text()
    return out.text() + err.text()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose name, metadata and file name are hostile, and whose template raises such."""

    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0].pop("general.name", None)
        writer.add_name(HOSTILE)
        writer.add_description(HOSTILE)
        writer.add_string(f"other.{HOSTILE}", HOSTILE)

    template = (
        f"{{% if 'raise' in messages[-1].content %}}{{{{ raise_exception('{HOSTILE}') }}}}"
        f"{{% endif %}}<|start_header_id|>user<|end_header_id|>{HOSTILE}"
        "{{ messages[-1].content }}<|eot_id|>"
    )
    folder = tmp_path_factory.mktemp("hostile")
    tool = {"type": HOSTILE, "function": {"name": HOSTILE, "description": HOSTILE}, HOSTILE: 1}
    (folder / "tools.json").write_text(json.dumps([tool]))
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": {HOSTILE: {"command": HOSTILE}}}))
    return write_model(folder / f"{HOSTILE}.gguf", template=template, change=change)


ANSWER = ("-n", "2", "-c", "256", "--threads", "1", "--no-tune")
BENCH = ("--depth", "0", "--prompt", "2", "--answer", "2", "--runs", "1")
COMMANDS = {
    "show": lambda m: ("show", m),
    "show json": lambda m: ("show", m, "--json"),
    "show metadata": lambda m: ("show", m, "--metadata"),
    "show metadata json": lambda m: ("show", m, "--metadata", "--json"),
    "show template": lambda m: ("show", m, "--template"),
    "show nothing": lambda m: ("show", HOSTILE),
    "tokens": lambda m: ("tokens", m, HOSTILE),
    "tokens json": lambda m: ("tokens", m, HOSTILE, "--json"),
    "tokens find": lambda m: ("tokens", m, "--find", "\x1b"),
    "tokens no json": lambda m: ("tokens", m, "--messages", f"/{HOSTILE}"),
    "path": lambda m: ("path", m),
    "run": lambda m: ("run", HOSTILE, "-m", m, *ANSWER, "-v"),
    "run json": lambda m: ("run", HOSTILE, "-m", m, *ANSWER, "--json"),
    "run jsonl": lambda m: ("run", HOSTILE, "-m", m, *ANSWER, "--jsonl"),
    "run shown": lambda m: ("run", HOSTILE, "-m", m, *ANSWER, "--show-prompt"),
    "run raises": lambda m: ("run", f"raise {HOSTILE}", "-m", m, *ANSWER),
    "run debug": lambda m: ("--debug", "run", f"raise {HOSTILE}", "-m", m, *ANSWER),
    "run no model": lambda m: ("run", "x", "-m", HOSTILE),
    "run no file": lambda m: ("run", "x", "-m", m, "-f", f"/{HOSTILE}"),
    "run cache": lambda m: ("run", "x", "-m", m, "--cache", HOSTILE, *ANSWER),
    "run device": lambda m: ("run", "x", "-m", m, "--device", HOSTILE),
    "no option": lambda m: ("run", f"--{HOSTILE}"),
    "no command": lambda m: (HOSTILE,),
    "batch": lambda m: ("batch", "-m", m, *ANSWER),
    "batch output": lambda m: ("batch", "-m", m, "-o", f"/{HOSTILE}/x", *ANSWER),
    "convert": lambda m: ("convert", HOSTILE),
    "convert quant": lambda m: ("convert", "demo", "--quant", HOSTILE),
    "verify": lambda m: ("verify", m, "--against", HOSTILE),
    "verify model": lambda m: ("verify", m, "--against", str(ROOT / "llamacli" / "demo")),
    "tune": lambda m: ("tune", m, "--forget"),
    "bench": lambda m: ("bench", m, *BENCH),
    "pull": lambda m: ("pull", HOSTILE),
    "rm": lambda m: ("rm", HOSTILE),
    "list": lambda m: ("list",),
    "list known": lambda m: ("list", "--known"),
    "chat": lambda m: ("chat", HOSTILE),
    "devices": lambda m: ("devices", "--workers", HOSTILE),
    "quality": lambda m: ("quality", m, "--against", m, "--text", str(m)),
    "quality model": lambda m: ("quality", m, "--against", HOSTILE, "--text", "-"),
    "imatrix": lambda m: ("imatrix", m, "--text", str(m)),
    "imatrix output": lambda m: ("imatrix", m, "-o", f"/{HOSTILE}/x"),
    "imatrix add": lambda m: ("imatrix", m, "--chunks", "0", "--add", str(m)),
    "serve": lambda m: ("serve", "-m", HOSTILE),
    "serve host": lambda m: ("serve", "-m", m, "--host", HOSTILE, "--no-key"),
    "serve time": lambda m: ("serve", "-m", m, "--keep-alive", HOSTILE),
    "serve keys": lambda m: ("serve", "-m", m, "--api-key-file", f"/{HOSTILE}"),
    "worker": lambda m: ("worker", "--host", HOSTILE, "--port", "0"),
    "worker memory": lambda m: ("worker", "--memory", HOSTILE),
    "run tools": lambda m: ("run", "x", "-m", m, "--tools", beside(m, "tools.json"), *ANSWER),
    "run results": lambda m: ("run", "x", "-m", m, "--results", beside(m, "tools.json"), *ANSWER),
    "run mcp": lambda m: ("run", "x", "-m", m, "--mcp", beside(m, "mcp.json"), *ANSWER),
    "run mcp command": lambda m: ("run", "x", "-m", m, "--mcp", HOSTILE, *ANSWER),
    "run adapter": lambda m: ("run", "x", "-m", m, "--adapter", m, *ANSWER),
    "run draft": lambda m: ("run", "x", "-m", m, "--draft", m, *ANSWER),
    "run schema": lambda m: ("run", "x", "-m", m, "--schema", beside(m, "tools.json"), *ANSWER),
    "run choice": lambda m: ("run", "x", "-m", m, "--choice", HOSTILE, "--json", *ANSWER),
    "convert merge": lambda m: ("convert", "demo", "--merge", HOSTILE),
    "convert recipe": lambda m: ("convert", "demo", "--recipe", beside(m, "tools.json")),
    "convert imatrix": lambda m: ("convert", "demo", "--imatrix", str(m)),
    "convert fit": lambda m: ("convert", "demo", "--fit", HOSTILE),
    "convert types": lambda m: ("convert", "demo", "--tensor-type", f"{HOSTILE}=Q8_0"),
}  # fmt: skip


def beside(model: str, name: str) -> str:
    return str(Path(model).with_name(name))


def test_every_command_is_tried() -> None:
    assert {command("m")[0] for command in COMMANDS.values()} >= {*cli.COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_lets_a_hostile_text_through(
    name: str, hostile: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.mkdir()
    (store / f"{HOSTILE}-F32.gguf").write_bytes(b"not GGUF " + HOSTILE.encode())
    (store / "models.toml").write_text(f'[one]\nsource = "{HOSTILE!r}"\n')
    command = COMMANDS[name](str(hostile))
    lines = [HOSTILE, "raise", json.dumps({"id": HOSTILE}), f"{{{HOSTILE}"]
    monkeypatch.setenv("LLAMACLI_DEBUG", "")  # so that what --debug sets goes with the test
    said = on_terminal(monkeypatch, *command, stdin="\n".join(lines))
    assert said and not [part for part in DRIVING if part in said]


def test_the_screen_would_show_it() -> None:
    """The test above can fail."""
    screen = Screen()
    screen.write(HOSTILE)
    assert all(part in screen.text() for part in DRIVING)


def test_convert_and_its_path(
    checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, target = tmp_path / HOSTILE.replace("/", ""), tmp_path / f"{HOSTILE}.gguf"
    checkpoint().rename(folder)
    said = on_terminal(
        monkeypatch, "convert", str(folder), "-o", str(target), "--quant", "F16", "--verify"
    )
    assert target.is_file() and "F16" in said
    assert not [part for part in DRIVING if part in said]


def test_the_chat_lets_no_hostile_text_through(hostile: Path, store: Path, tmp_path: Path) -> None:
    head = SessionHead(model="nowhere", settings={"temperature": 0.0})
    log = create("bad", head, lambda text: None)
    log.record({"role": "system", "content": HOSTILE})
    log.record(user(HOSTILE))
    log.record({"role": "assistant", "content": HOSTILE})
    log.close()
    (store / f"{HOSTILE}-F32.gguf").write_bytes(b"no model")
    (tmp_path / "text").write_text(f"raise {HOSTILE}")
    (tmp_path / "calm").write_text(HOSTILE)
    chat = Terminal([*PROGRAM, "chat", "-m", str(hostile), *ANSWER], columns=240)
    try:
        chat.prompt()
        for line, answer in {
            f"/file {tmp_path / 'calm'}": "goes below",
            "": "tokens",
            f"/file {tmp_path / 'text'}": "goes below",
            "go": "llamacli: ",
            "/sessions": "bad",
            "/load bad": "goes on",
            "/system": "owned",
            "/model": "there are: ",
            "/model nothing": "there is no model",
            "/stats": "all answers",
            "/export /nowhere/at/all": "can't be written",
            "/file ~nobody-there/x": "no such home",
        }.items():
            chat.line(line)
            chat.wait(answer)
            chat.prompt()
        chat.line("/exit")
        assert chat.leave() == 0
    finally:
        chat.close()
    raw = chat.raw.decode(errors="replace")
    assert "owned" in raw and not [part for part in DRIVING[:3] if part in raw]
    assert "\x1b[2Jowned" not in raw


@pytest.mark.parametrize("text", ["\x7f", "\x80", "\x9b2J", "\u2028", "\u2029", "\x85", "\ud800"])
def test_json_escapes_what_ends_lines_or_drives_terminals(text: str) -> None:
    written = as_json({"id": text})
    assert written.isascii() and json.loads(written) == {"id": text}
    assert len(written.splitlines()) == 1
