"""What commands print on stdout: text as it is, and JSON."""

import json
import sys
from typing import Any


def print_text(text: str) -> None:
    from llamacli.output import writer

    writer(sys.stdout)(text)


def print_json(value: Any) -> None:
    """Indented; a text that isn't Unicode, as a file's name may be, keeps its JSON escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print_text(text + "\n")
