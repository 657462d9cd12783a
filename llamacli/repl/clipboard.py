"""Text to the clipboard: by the system's own tools, else by asking the terminal."""

import base64
import os

from llamacli.errors import LlamacliError
from llamacli.terminal import Write


def copy(text: str, write: Write) -> str:
    """Copy, and say how; write sends raw text to the terminal.

    Raises LlamacliError where neither way is there.
    """
    import pyperclip

    try:
        pyperclip.copy(text)
    except pyperclip.PyperclipException:
        if os.environ.get("TERM", "dumb") == "dumb":
            raise LlamacliError(
                "there is no clipboard here: install xclip or wl-clipboard"
            ) from None
        code = base64.b64encode(text.encode(errors="replace")).decode()
        write(f"\x1b]52;c;{code}\a")  # OSC 52, see xterm's control sequences
        return "sent to the terminal's clipboard by OSC 52, which some terminals ignore"
    return "copied to the clipboard"
