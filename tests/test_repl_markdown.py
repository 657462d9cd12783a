"""Markdown as it streams: what stands on the screen in the end, and what is sent on the way."""

import os
import random
import re

import pyte
import pytest

from llamacli.repl.markdown import MarkdownStream, finished, render
from llamacli.terminal import harmless

ANSWER = """\
# Title

A paragraph with **bold**, `code`, <br> and a [link](http://example.org/x).
Its second line.

1. First

2. Second, with code
   ```python
   def f(x):
       return x
   ```
3. Third

> quoted

| a | b |
|---|---|
| 1 | 2 |

```python
print("hi")
```

The end.
"""
PIECES = [
    "a ", "**b** ", "`c`", "\n", "\n\n", "- ", "1. ", "2. ", "> ", "```", "```python\n", "# ",
    "---\n", "| a | b |\n|-|-|\n", "| 1 | 2222 |\n", "    ", "x" * 50, '"""', "<b>", "漢字", "👍",
    "[l](http://u)", "&#27;[31m",
]  # fmt: skip


def on_screen(sent: str, columns: int, rows: int) -> list[str]:
    """All lines of a terminal that was sent this, those that scrolled away first."""
    screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=1)
    pyte.Stream(screen).feed(sent.replace("\n", "\r\n"))
    above = ["".join(line[i].data for i in range(columns)) for line in screen.history.top]
    return [line.rstrip() for line in [*above, *screen.display]]


def stream(text: str, columns: int = 80, rows: int = 200, seed: int = 0, wait: float = 1) -> str:
    """What is sent for a text that comes in random pieces."""
    rng = random.Random(seed)
    sent: list[str] = []
    now = 0.0
    shown = MarkdownStream(sent.append, lambda: os.terminal_size((columns, rows)), lambda: now)
    while text:
        size = rng.randint(1, 9)
        shown.add(text[:size])
        text, now = text[size:], now + wait * rng.randint(0, 1)
    shown.finish()
    return "".join(sent)


def filled(lines: list[str]) -> list[str]:
    return [line for line in lines if line]


def test_blocks_look_like_markdown() -> None:
    lines = filled(on_screen(stream(ANSWER), 80, 200))
    assert lines[:3] == [
        "Title",
        "A paragraph with bold, code, <br> and a link (http://example.org/x).",
        "Its second line.",
    ]
    assert " 1 First" in lines and " 3 Third" in lines and "▌ quoted" in lines
    assert '  print("hi")' in lines and lines[-1] == "The end."


def test_code_is_highlighted_in_the_terminals_own_colours() -> None:
    (line,) = render("```python\nreturn 1\n```", 40)
    assert re.search(r"\x1b\[\d+m", line) and "38;" not in line and "48;" not in line


@pytest.mark.parametrize("seed", range(40))
def test_streamed_in_pieces_it_ends_as_when_whole(seed: int) -> None:
    rng = random.Random(seed)
    text = ANSWER if seed == 0 else "".join(rng.choices(PIECES, k=rng.randint(1, 50)))
    columns = rng.choice([30, 79])
    whole = "\n".join(render(harmless(text), columns - 1))
    streamed = stream(text, columns, seed=seed)
    assert filled(on_screen(streamed, columns, 200)) == filled(on_screen(whole, columns, 200))
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]", streamed)
    assert not re.sub(r"\x1b\[[\d;]*[mAJK]", "", streamed).count("\x1b")


def test_long_text_is_whole_on_a_small_screen() -> None:
    words = " ".join(f"w{i}" for i in range(400))
    code = "```\n" + "\n".join(f"line {i}" for i in range(60)) + "\n```\n"
    text = f"{words}\n\n{code}\n{words}"
    lines = filled(on_screen(stream(text, 40, 10, wait=0.5), 40, 10))
    assert " ".join(lines).split() == re.sub("```", "", text).split()


def test_finished_blocks_are_sent_once() -> None:
    text = "\n\n".join(f"paragraph {i:02}" for i in range(50)) + "\n"
    sent = stream(text)
    assert all(sent.count(f"paragraph {i:02}") < 12 for i in range(50))
    size = len(stream("start\n\n" * 200 + "word " * 15)) - len(stream("start\n\n" * 200))
    assert size < 2000  # what is above isn't drawn again with each word


def test_only_what_differs_is_sent() -> None:
    sent: list[str] = []
    now = iter(range(1000))
    size = os.terminal_size((40, 20))
    shown = MarkdownStream(sent.append, lambda: size, lambda: float(next(now)))
    shown.add("word " * 30)
    assert sent[-1].count("\n") > 2
    shown.next_draw = 0
    shown.add("more")
    assert "\n" not in sent[-1] and sent[-1].startswith("\r")


def test_redraws_are_few_where_text_comes_fast() -> None:
    sent: list[str] = []
    shown = MarkdownStream(sent.append, lambda: os.terminal_size((80, 24)), lambda: 0.0)
    for i in range(1000):
        shown.add(f"word{i} ")
    assert len(sent) == 1
    shown.finish()
    assert "word999" in "".join(sent)


def test_a_narrower_terminal_gets_the_block_anew() -> None:
    sent: list[str] = []
    columns, now = 80, 0.0
    shown = MarkdownStream(sent.append, lambda: os.terminal_size((columns, 24)), lambda: now)
    shown.add("word " * 20)
    columns, now = 30, 1.0
    shown.add("more")
    assert sent[-1].startswith("\n") and "\x1b[1A" not in sent[-1]
    assert max(map(len, sent[-1].split("\n"))) < 30
    shown.restart()
    now = 2.0
    shown.add(" end")
    assert sent[-1].startswith("word") and sent[-1].endswith("more end")


def test_a_terminal_that_does_not_know_its_size_gets_80_columns() -> None:
    sent: list[str] = []
    shown = MarkdownStream(sent.append, lambda: os.terminal_size((0, 0)))
    shown.add("word " * 30)
    shown.finish()
    assert max(map(len, "".join(sent).split("\n"))) in range(70, 80)


def test_half_a_line_can_still_belong_to_the_block_before() -> None:
    assert finished("one\n\n2") == 0
    assert finished("one\n\ntwo\n") == len("one\n\n")
    assert finished("- a\n\n- b\n") == 0
    odd = "one\u2028two\x85three\u2029 \x0b\n\n"  # Markdown's lines end at newlines alone
    assert finished(f"{odd}two\n") == len(odd)
    assert finished("```\na\n\nb\n") == 0
