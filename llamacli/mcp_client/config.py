"""Which servers there are: commands, addresses, and files of `mcpServers` as others have them."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamacli.errors import UsageError
from llamacli.home import expanded
from llamacli.prompt import parse_json, read_file
from llamacli.system import WINDOWS

NAME = re.compile(r"[A-Za-z0-9_.-]{1,32}")
LISTS = ("mcpServers", "servers")  # the second is VS Code's
HTTP = ("http", "streamable-http", "streamableHttp", "streamable_http")
SENT = re.compile(r"[\t -~]*")
VARIABLE = re.compile(r"\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class ServerConfig:
    """A server to start by a command, or to reach at a URL.

    env is added to the few variables that every server gets. Values of env and headers may be
    secrets.
    """

    name: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: Path | None = None
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def read_servers(given: Sequence[str]) -> list[ServerConfig]:
    """The servers that --mcp names: by files, addresses or commands, in that order of trial.

    Raises UsageError that says what is wrong, and NotFoundError for a file that isn't there.
    """
    found: list[ServerConfig] = []
    for text in given:
        found += _read(text.strip())
    names = [server.name for server in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two MCP servers are called {twice}; give them other names in a file")
    return found


def _read(text: str) -> list[ServerConfig]:
    if address := re.match(r"https?://(?:[^/?#]*@)?([^/:?#]*)", text):
        return [ServerConfig(_name_of(address[1]), url=text)]
    if text and _is_file(text):
        return read_config(read_file(expanded(text)).text, text)
    try:
        words = words_of(text)
    except ValueError as error:
        raise UsageError(f"--mcp {text!r} is no command: {error}") from None
    if not words:
        raise UsageError("--mcp is empty; name a file of mcpServers, a URL, or a command")
    words = [str(expanded(word)) if word.startswith("~") else word for word in words]
    return [ServerConfig(_name_of(Path(words[0]).stem), tuple(words))]


def _is_file(text: str) -> bool:
    """Whether that is a file of servers, not a command, whose last word may be a file as well."""
    path = expanded(text)
    try:
        if path.is_file():
            return text.endswith(".json") or not os.access(path, os.X_OK)
    except OSError:  # too long for a name
        return False
    return text.endswith(".json") and not re.search(r"\s", text)


def words_of(command: str, *, windows: bool = WINDOWS) -> list[str]:
    """A command's words, as the system's shell would have them. Raises ValueError.

    Windows' backslashes part folders and escape nothing.
    """
    words = shlex.shlex(command, posix=True)
    words.whitespace_split, words.commenters = True, ""
    if windows:
        words.escape = ""
    return list(words)


def read_config(text: str, name: str) -> list[ServerConfig]:
    """The servers of a file's text: {"mcpServers": {NAME: {command, args, env, cwd}}}, or {url,
    headers}. Those that are disabled are left out, and what else other programs keep there.
    """
    given = parse_json(text, name)
    lists = [given[key] for key in LISTS if key in given] if isinstance(given, dict) else []
    if not lists or not isinstance(lists[0], dict) or not lists[0]:
        raise UsageError(f'{name} has no {{"mcpServers": {{NAME: {{"command": …}}}}}}')
    servers = []
    for key, entry in lists[0].items():
        try:
            if server := _server(key, entry):
                servers.append(server)
        except UsageError as error:
            raise UsageError(f"{name}: the server {key}: {error}") from None
    return servers


def _server(name: str, entry: Any) -> ServerConfig | None:
    if not NAME.fullmatch(name):
        raise UsageError("its name has other than letters, digits, '_', '.' and '-', or over 32")
    if not isinstance(entry, dict):
        raise UsageError("it is no object with a command or a url")
    if entry.get("disabled") is True:
        return None
    kind = entry.get("type", "")
    url = _text(entry, "url")
    if url:
        if kind and kind not in HTTP:
            raise UsageError(f"its type is {kind!r}; streamable HTTP is spoken (type http)")
        if not re.match(r"https?://", url):
            raise UsageError(f"its url {url!r} isn't one of http or https")
        headers = _texts(entry, "headers")
        for header, value in headers.items():  # errors of HTTP would tell the value, a secret
            if not SENT.fullmatch(value):
                raise UsageError(f"its header {header} has a line end, or other than ASCII")
        return ServerConfig(name, url=url, headers=headers)
    command, args = _text(entry, "command"), entry.get("args", [])
    if not command:
        raise UsageError("it has no command and no url")
    if not isinstance(args, list) or not all(isinstance(one, str) for one in args):
        raise UsageError("its args are no list of texts")
    cwd = _text(entry, "cwd")
    return ServerConfig(
        name,
        (command, *map(_filled, args)),
        env=_texts(entry, "env"),
        cwd=expanded(cwd) if cwd else None,
    )


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key) or ""
    if not isinstance(value, str):
        raise UsageError(f"its {key} is not a text")
    return _filled(value)


def _texts(entry: Mapping[str, Any], key: str) -> dict[str, str]:
    given = entry.get(key) or {}
    if not isinstance(given, dict) or not all(isinstance(one, str) for one in given.values()):
        raise UsageError(f"its {key} has values that are no texts")
    return {name: _filled(value) for name, value in given.items()}


def _filled(text: str) -> str:
    """The text with ${NAME}, ${env:NAME} and ${NAME:-default} as the environment has them."""

    def value(found: re.Match[str]) -> str:
        name, default = found.groups()
        known = os.environ.get(name, default)
        if known is None:
            raise UsageError(f"{found.group()} isn't set in the environment")
        return known

    if "\0" in text:
        raise UsageError("it has a text with a NUL byte")
    return VARIABLE.sub(value, text)


def _name_of(text: str) -> str:
    """A name like text."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-")[:32] or "server"
