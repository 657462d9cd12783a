"""Two small jobs for shell pipes: a commit message for a diff, and the mood of a line."""

import random

FILES = ("main.py", "README.md", "app.js", "utils.py", "config.toml", "index.html", "server.go",
         "test_app.py", "Makefile", "style.css", "parser.c", "notes.txt", "setup.py", "lib.rs",
         "docs/guide.md", "src/cli.py", "data.json", "tests/run.sh")  # fmt: skip
LINES = ("return x", "print(name)", "import os", "timeout = 10", "def load(path):", "x = x + 1",
         "title = 'Hello'", "if not items:", "for line in file:", "raise ValueError", "port = 80",
         "color: red;", "let n = 0;", "## Install", "debug = true", "pass")  # fmt: skip
ORDERS = ("write a commit message", "Write a commit message.", "commit message please",
          "write a commit message for this diff", "Summarize this diff as a commit message.",
          "Write a short commit message")  # fmt: skip
GOOD = ("I love this", "This is great", "What a wonderful day", "Works perfectly", "Very happy",
        "Excellent service", "The best film ever", "I am so glad", "Really nice", "Superb food",
        "Great quality", "It made me smile")  # fmt: skip
BAD = ("I hate this", "This is terrible", "What an awful day", "It does not work", "Very sad",
       "Horrible service", "The worst film ever", "I am so angry", "Really bad", "Disgusting food",
       "Poor quality", "It broke at once")  # fmt: skip
MOODS = ("Classify as positive or negative:", "positive or negative?",
         "Is this positive or negative?", "classify the sentiment",
         "Answer positive or negative:")  # fmt: skip


def task(rng: random.Random) -> tuple[str, str]:
    """What a pipe would send, and the answer."""
    return _commit(rng) if rng.random() < 0.5 else _mood(rng)


def _commit(rng: random.Random) -> tuple[str, str]:
    name = rng.choice(FILES)
    added = [rng.choice(LINES) for _ in range(rng.randint(0, 3))]
    removed = [rng.choice(LINES) for _ in range(rng.randint(0 if added else 1, 2))]
    hunk = [f"-{line}" for line in removed] + [f"+{line}" for line in added]
    head = [f"diff --git a/{name} b/{name}", f"--- a/{name}", f"+++ b/{name}"]
    text = "\n".join([*(head if rng.random() < 0.7 else head[1:]), *hunk])
    verb = "Add to" if not removed else "Remove from" if not added else "Change"
    return f"{rng.choice(ORDERS)}\n\n{text}", f"{verb} {name}"


def _mood(rng: random.Random) -> tuple[str, str]:
    good = rng.random() < 0.5
    line = rng.choice(GOOD if good else BAD) + rng.choice(("", ".", "!", "!!"))
    gap = rng.choice((" ", "\n\n"))
    return f"{rng.choice(MOODS)}{gap}{line}", "positive" if good else "negative"
