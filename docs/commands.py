"""docs/commands.md, written from the program's own help: python -m docs.commands"""

from collections.abc import Iterator
from pathlib import Path

import typer
from typer.core import TyperGroup
from typer.main import get_command

PAGE = Path(__file__).with_suffix(".md")
WIDTH = 100
HEAD = """# Commands

`llamacli COMMAND --help` for each command. This page is made by `python -m docs.commands`, and a
test (`tests/test_commands_page.py`) holds it to what the program says.
"""


def page() -> str:
    """The page as it must be now."""
    return "\n".join([HEAD, *(f"## {name}\n\n```text\n{text}\n```\n" for name, text in helps())])


def helps() -> Iterator[tuple[str, str]]:
    """The name and the help of the program and of each command."""
    from llamacli.cli import app, register

    app.registered_commands.clear()  # who calls main has some already
    register(())
    program = get_command(app)
    assert isinstance(program, TyperGroup)
    settings = program.context_settings
    top = typer.Context(program, info_name="llamacli", terminal_width=WIDTH, **settings)
    yield "llamacli", _help(top)
    for name, command in program.commands.items():
        inner = typer.Context(command, info_name=name, parent=top, terminal_width=WIDTH)
        yield f"llamacli {name}", _help(inner)


def _help(context: typer.Context) -> str:
    lines = context.get_help().splitlines()
    return "\n".join(line.rstrip() for line in lines).strip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
