"""What commands print on stdout: text as it is, JSON, and tables."""

import json
import sys
from collections.abc import Sequence
from typing import Any


def print_text(text: str) -> None:
    from llamacli.terminal import writer

    writer(sys.stdout)(text)


def print_json(value: Any) -> None:
    """Indented; a text that isn't Unicode, as a file's name may be, keeps its JSON escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print_text(text + "\n")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], aligned: str) -> None:
    """Rows below a head on stdout: by rich on a terminal, else in plain columns."""
    if not sys.stdout.isatty():
        from llamacli.terminal import columns

        print_text(columns([head, *rows], aligned))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    for name, side in zip(head, aligned, strict=True):
        table.add_column(name, justify="right" if side == "r" else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
