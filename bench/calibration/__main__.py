"""See the package's first lines."""

import json
import random
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TARGET = ROOT / "llamacli" / "quality"
SIZE = 1200  # characters a piece, about
PAGES = ("README.md", "SECURITY.md", "docs/chat.md", "docs/devices.md", "docs/models.md",
         "docs/recipes.md", "docs/verify.md")  # fmt: skip
EXERCISES, TABLES, LOGS = 40, 24, 12  # pieces of each


def pieces(text: str) -> Iterator[str]:
    """Whole paragraphs, SIZE characters or a little more together."""
    held = ""
    for paragraph in text.split("\n\n"):
        held += paragraph + "\n\n"
        if len(held) >= SIZE:
            yield held
            held = ""
    if held.strip():
        yield held


def exercise(rng: random.Random) -> str:
    """Sums, equations and sequences with their solutions."""
    lines = []
    for _ in range(14):
        a, b, c = (rng.randint(2, 10 ** rng.randint(1, 4)) for _ in range(3))
        lines.append(
            rng.choice(
                [
                    f"{a} + {b} = {a + b}",
                    f"{a} - {b} = {a - b}",
                    f"{a} × {c} = {a * c}",
                    f"{a * b} / {b} = {a}",
                    f"{a % 97}² = {(a % 97) ** 2}, and √{(a % 97) ** 2} = {a % 97}",
                    f"If {a % 19 + 2}x + {b} = {(a % 19 + 2) * c + b}, then x = {c}.",
                    f"{b % 90 + 5}% of {a * 100} is {(b % 90 + 5) * a}.",
                    f"{a}, {a + b}, {a + 2 * b}, {a + 3 * b}, … has the difference {b}.",
                    f"{a} mod {b % 50 + 2} = {a % (b % 50 + 2)}; 0x{a:X} = {a} = 0b{a:b}",
                    f"\\[ \\int_0^{{{a % 9 + 1}}} {b % 9 + 1}x\\,dx = "
                    f"{(b % 9 + 1) * (a % 9 + 1) ** 2 / 2:g} \\]",
                ]
            )
        )
    return "\n".join(lines) + "\n\n"


def table(rng: random.Random) -> str:
    """Made-up measurements as CSV, Markdown or JSON."""
    names = ["Lagos", "Porto", "Turku", "Osaka", "Quito", "Brno", "Hanoi", "Perth", "Gdańsk"]
    rows = [
        {"city": name, "year": rng.randint(1990, 2024), "mm": round(rng.gammavariate(9, 80), 1),
         "stations": rng.randint(1, 40)}
        for name in rng.sample(names, 7)
    ]  # fmt: skip
    kind = rng.randrange(3)
    if kind == 0:
        return "\n".join(["city,year,mm,stations", *(",".join(map(str, r.values())) for r in rows)])
    if kind == 1:
        body = ["| " + " | ".join(map(str, row.values())) + " |" for row in rows]
        return "\n".join(["| city | year | mm | stations |", "|---|---|---|---|", *body])
    return json.dumps(rows, indent=2, ensure_ascii=False)


def log(rng: random.Random) -> str:
    """Lines of a server's log."""
    lines = []
    for _ in range(10):
        time = f"2024-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}T{rng.randint(0, 23):02}:"
        time += f"{rng.randint(0, 59):02}:{rng.randint(0, 59):02}Z"
        paths = "/", "/api/v2/items", "/login", "/static/app.js", f"/u/{rng.getrandbits(32):08x}"
        path = rng.choice(paths)
        level = rng.choice(["INFO", "INFO", "WARN", "ERROR"])
        status = rng.choice([200, 200, 204, 301, 404, 500])
        number = f"{rng.randint(1, 900)}ms id={rng.getrandbits(48):012x}"
        lines.append(f"{time} {level} GET {path} {status} {number}")
    return "\n".join(lines)


def made(count: int, make: Callable[[random.Random], str]) -> list[str]:
    rng = random.Random(make.__name__)
    return [make(rng).rstrip() + "\n\n" for _ in range(count)]


def main() -> None:
    def read(*names: str) -> list[str]:
        return [piece for name in names for piece in pieces((ROOT / name).read_text("utf-8"))]

    modules = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "convert").rglob("*.py"))
    sources = [
        read("bench/calibration/prose.txt"),
        read(*modules),
        read(*PAGES),
        read("bench/calibration/code.txt"),
        made(EXERCISES, exercise),
        made(TABLES, table),
        made(LOGS, log),
    ]
    mixed = [piece for pieces in zip_longest(*sources) for piece in pieces if piece is not None]
    (TARGET / "calibration.txt").write_text("".join(mixed), "utf-8")


if __name__ == "__main__":
    main()
