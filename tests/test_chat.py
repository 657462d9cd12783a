"""The chat on a real terminal, with the demo model."""

import sys
from pathlib import Path

import pexpect
import pytest


@pytest.fixture
def chat(store: Path) -> pexpect.spawn:
    """`llamacli chat -m demo` in a pseudo-terminal, past its first prompt."""
    child = pexpect.spawn(
        sys.executable,
        ["-m", "llamacli", "chat", "-m", "demo", "--temp", "0"],
        encoding="utf-8",
        timeout=60,
        dimensions=(30, 120),
    )
    child.expect(">>>")
    return child


def test_turns_and_leaving(chat: pexpect.spawn) -> None:
    chat.send("Hello\r")
    chat.expect("What would you like to know")
    chat.expect(">>>")
    chat.send("What is GGUF?\r")
    chat.expect("file format")
    chat.expect(">>>")
    chat.send("/exit\r")
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0


def test_ctrl_d_leaves(chat: pexpect.spawn) -> None:
    chat.sendeof()
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0
