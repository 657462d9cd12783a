"""What llamacli itself has written, bent: KV caches, sessions, tuned settings, and the like."""

import hashlib
import json
import struct
from pathlib import Path
from random import Random
from typing import Any

from llamacli.tune.profiles import kept_path
from tests.fuzz.mutate import EXTREMES, TEXTS, bend_bytes, bend_json
from tests.standins.tiny import write_model

Command = list[str]
ANSWER = ["-n", "2", "--threads", "1", "--temp", "0"]
LONG = "answer shortly and say nothing that you were not asked for " * 2
SESSION: list[dict[str, Any]] = [
    {"session": 1, "model": "tiny", "quantization": "F32",
     "settings": {"temperature": 0.5, "top_k": 5, "seed": 7, "max_tokens": 9, "stop": ["x"]}},
    {"role": "system", "content": "say little"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"session": 1, "model": "tiny", "quantization": "F32", "settings": {"context": 256}},
    {"role": "user", "content": "and now?"},
    {"role": "assistant", "content": "nothing"},
    {"event": "regenerate", "content": "something"},
    {"event": "edit", "content": "and then?"},
    {"role": "assistant", "content": "later"},
    {"event": "forget", "messages": 2},
    {"event": "system", "content": "say more"},
    {"role": "user", "content": "never mind"},
    {"event": "undo"},
]  # fmt: skip
TUNED = {
    name: {
        "threads": 1, "threads_batch": 1, "batch": 64, "ubatch": 64, "repack": True,
        "flash_attention": "off", "gpu_layers": 0,
    }
    for name in ("short", "long")
}  # fmt: skip
MODELS: dict[str, Any] = {
    "defaults": {"context": 64, "threads": 1, "temperature": 0.0, "top_k": 3, "max_tokens": 2},
    "one": {
        "source": "some-one/Some-Model", "revision": "main", "quantization": "Q8_0",
        "context": 8192, "license": "llama3", "parameters": 1000, "checkpoint_bytes": 2000,
        "gguf_bytes": 1000, "memory_bytes": 3000,
    },
    "llama-3.2-1b": {"quantization": "Q8_0"},
}  # fmt: skip
TOML = (
    "[a" + ".a" * 100_000 + "]", "a" + ".a" * 100_000 + " = 1", "a = " + "[" * 100_000,
    "a = " + "{a=" * 50_000, "[[defaults]]", "defaults = 1", 'a = """' + "=\n" * 50_000 + '"""',
    "[one]\nsource = 'a/b'\n[one]", "[demo]\nsource = '/etc'", "\ufeff", "\0", "a = 1979-05-27",
)  # fmt: skip


def prepare(folder: Path) -> None:
    write_model(folder / "model.gguf")


def bend_cache(rng: Random, folder: Path) -> list[Command]:
    """The first mutant's command makes the sound file; it holds the model's own key."""
    path, good = folder / "store" / "cache" / "name-x.kv", folder / "good.kv"
    flags = [LONG, "-m", str(folder / "model.gguf"), *ANSWER, "-c", "256", "--cache"]
    if not good.exists():
        return [["run", *flags, "x"], ["keep", str(path), str(good)]]
    path.write_bytes(_bent_state(rng, good.read_bytes()))
    return [["run", *flags, "x"]]


def _bent_state(rng: Random, good: bytes) -> bytes:
    start = 16 + 32  # the magic and the digest
    (length,) = struct.unpack_from("<Q", good, start)
    header, state = good[start + 8 : start + 8 + length], good[start + 8 + length :]
    tokens = len(json.loads(header)["tokens"])
    kind = rng.random()
    if kind < 0.3:
        header = bend_json(rng, json.loads(header), rng.choice((1, 1, 2)))
        length = len(header)
    elif kind < 0.35:
        length = rng.choice(EXTREMES)
    elif kind < 0.8:
        for _ in range(rng.choice((1, 1, 2))):
            at = 4 * rng.randrange(rng.choice((16, 3 * tokens + 16, len(state) // 4)))
            value = rng.choice((*EXTREMES, rng.randrange(tokens + 2))) & 0xFFFFFFFF
            state = state[:at] + struct.pack("<I", value) + state[at + 4 :]
    bad = struct.pack("<Q", length) + header + state
    if kind >= 0.8:
        bad = bend_bytes(rng, bad, rng.choice((1, 1, 4)), rng.choice((200, len(header) + 1000)))
    digest = hashlib.sha256(bad).digest() if rng.random() < 0.9 else good[16:start]
    return good[:16] + digest + bad


def bend_session(rng: Random, folder: Path) -> list[Command]:
    path = folder / "store" / "sessions" / "x.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(line).encode() for line in SESSION]
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        lines[at] = bend_json(rng, SESSION[at % len(SESSION)], rng.choice((1, 1, 3)))
        if rng.random() < 0.2:
            lines.insert(rng.randrange(len(lines)), rng.choice(lines))
        if rng.random() < 0.2 and len(lines) > 1:
            del lines[rng.randrange(len(lines))]
    bad = b"\n".join(lines) + b"\n"
    path.write_bytes(bend_bytes(rng, bad, rng.choice((1, 3))) if rng.random() < 0.4 else bad)
    return [["resume-session", str(folder / "model.gguf"), "x"]]


def bend_tuned(rng: Random, folder: Path) -> list[Command]:
    model = folder / "model.gguf"
    path = kept_path(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bend_json(rng, TUNED, rng.choice((1, 2, 4))))
    return [["run", "hi", "-m", str(model), "-n", "2", "--temp", "0", "-c", "64"]]


def bend_models(rng: Random, folder: Path) -> list[Command]:
    text = "\n".join(_table(rng, name, table) for name, table in MODELS.items())
    if rng.random() < 0.2:
        text = rng.choice(TOML) + "\n" + text if rng.random() < 0.5 else text + rng.choice(TOML)
    bad = text.encode(errors="replace")
    (folder / "models.toml").write_bytes(bend_bytes(rng, bad) if rng.random() < 0.3 else bad)
    return [
        ["list", "--known", *rng.choice(([], ["--json"]))],
        ["run", "hi", "-m", str(folder / "model.gguf"), "-n", "2", "--threads", "1"],
        ["path", rng.choice(("one", "llama-3.2-1b"))],
    ]


def _table(rng: Random, name: str, table: dict[str, Any]) -> str:
    """A TOML table; what JSON and TOML write alike is bent as JSON."""
    if rng.random() < 0.1:
        name = json.dumps(rng.choice(TEXTS))
    lines = [f"[{name}]"]
    for key, value in table.items():
        bent = bend_json(rng, value) if rng.random() < 0.1 else json.dumps(value).encode()
        lines.append(f"{key} = {bent.decode(errors='replace')}")
    return "\n".join(lines)
