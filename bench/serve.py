"""The server under load, beside llama-server of the same commit with the same settings.

    python -m bench.serve --model FILE [--parallel 8] [--runs 3] [--starts 1] [--write] [PART…]

Parts are load, gaps, soak and run: throughput and the time to the first token at 1, 4 and 8
clients, with prompts that share nothing and with a shared start; the gaps between tokens of three
streams while a long prompt comes in; a soak, requests from 64 connections, a third of which hang
up in the middle; and `llamacli run` by the server. Both servers run, and are measured in turn;
--own measures llamacli's alone. Each start of a server is 2% faster or slower than the others, by
where its memory lies: --starts has both started so many times, and takes all their runs.
--write keeps the figures in docs/serve.json, and puts them into docs/serve.md. On busy cores they
mean nothing.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench.compare import Target, in_turn
from bench.llama_cpp_tools import tool
from bench.report import DOCS, machine, with_figures
from bench.served import (
    ANSWER,
    CONNECTIONS,
    LONG,
    PROMPT,
    SHARED,
    Served,
    first_byte,
    gaps,
    load,
    soak,
    started,
    stream,
)
from llamacli.gguf import check_llama, read_gguf

NAME, PAGE, DATA = "serve", DOCS / "serve.md", DOCS / "serve.json"
OURS, PEER = "llamacli", "llama-server"
PARTS = ("load", "gaps", "soak", "run")
TARGETS = {
    "tokens/s": Target(1.0),
    "first p50": Target(1.0, most=True),
    "first p99": Target(1.0, most=True),
    "gap p99": Target(0.5, most=True),
    "failed": Target(0, most=True),
    "health s": Target(0.1, most=True),
    "beyond the prefill s": Target(0.12, most=True),
}
Values = dict[str, list[float]]  # by quantity, those of each run


def own(model: Path, options: argparse.Namespace, context: int, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "llamacli", "serve", "-m", str(model), "--port", str(port)),
        *("--parallel", str(options.parallel), "-c", str(context)),
        *("--threads", str(options.threads), "--quiet", "--queue", "100"),
        *("--speculate", "off"),  # as the other has it, if nothing is said
        *("--flash-attention", options.flash_attention),
    ]


def peer(model: Path, options: argparse.Namespace, context: int, port: int) -> list[str]:
    cells = context + 1024 * (options.parallel - 1)  # as many as ours has for as many sequences
    return [
        *(str(tool("llama-server")), "-m", str(model), "--port", str(port), "-c", str(cells)),
        *("-np", str(options.parallel), "-t", str(options.threads)),
        *("-kvu", "-fa", options.flash_attention, "-b", "512", "-ub", "512"),
    ]


def measured(
    servers: Sequence[Served], options: argparse.Namespace, model: Path, long: int
) -> Iterator[tuple[str, str, dict[str, Values]]]:
    """What was asked for, in turn, told as it comes: the part, what it was, servers' values."""
    works: dict[tuple[str, str], Callable[[Served], dict[str, float]]] = {}
    if "load" in options.parts:
        for clients in options.clients:
            for shared in options.shared:
                what = f"{clients} client{'s' * (clients > 1)}, {shared or 'nothing'} shared"
                works["load", what] = partial(
                    load, clients=clients, shared=shared, each=options.each
                )
    if "gaps" in options.parts:
        works["gaps", f"3 streams while {long:,} tokens come in"] = partial(gaps, length=long)
    if "soak" in options.parts:
        works["soak", f"{options.soak:,} requests"] = partial(soak, count=options.soak)
    if "run" in options.parts:
        works["run", f"run, {PROMPT} tokens in"] = partial(first_byte, model=model)
    for (part, what), work in works.items():
        asked = [server for server in servers if part != "run" or server.name == OURS]
        ways = {server.name: partial(work, server) for server in asked}
        results = in_turn(ways, options.runs)
        by_server: dict[str, Values] = {}
        for name, runs in results.items():
            values = by_server[name] = {key: [run[key] for run in runs] for key in runs[0]}
            told = ", ".join(f"{k} {statistics.median(v):.4g}" for k, v in values.items())
            print(f"{name}: {what}: {told}", flush=True)
        yield part, what, by_server


def keep(part: str, what: str, by_server: Mapping[str, Values], using: str) -> None:
    """Put figures beside those that are kept, and into the page."""
    data = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    data["machine"] = f"{machine().split(';')[0]}; {using}."
    data.setdefault(part, {})[what] = by_server
    DATA.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    page = with_figures(PAGE.read_text(encoding="utf-8"), figures(data), NAME)
    PAGE.write_text(page, encoding="utf-8")


def figures(data: Mapping[str, Any]) -> str:
    """The Markdown of what was kept: what it was measured on, and a table of each part."""
    notes = {
        "load": f"Prompts of {PROMPT} tokens, answers of {ANSWER}, and with a start of {SHARED:,} "
        "tokens that all share and that was read before; every client asks again as soon as it is "
        "answered. Seconds to the first token.",
        "gaps": "Seconds between two tokens, the 99th of a hundred.",
        "soak": f"From {CONNECTIONS} connections; a third hang up in the middle. `grown` is the "
        "resident memory after the first quarter to the end, `health` the slowest answer of "
        "`/health` meanwhile.",
        "run": "Seconds from the start of `llamacli run`, which the server answers, to its first "
        "byte, beyond those that the server read the prompt for.",
    }
    parts = [data["machine"], f"`python -m bench.{NAME}`; the ratio to {PEER}'s of the same run."]
    for part in PARTS:
        if part in data:
            parts += [notes[part], table(data[part])]
    return "\n\n".join(parts)


def table(measured: Mapping[str, Mapping[str, Values]]) -> str:
    """A row for what was measured, the medians of its quantities, ours, theirs and the ratio."""
    keys = list(next(iter(measured.values()))[OURS])
    lines = ["| | " + " | ".join(f"{key} | {PEER} | ratio" for key in keys) + " |"]
    lines.append("| --- |" + " ---: | ---: | --- |" * len(keys))
    for what, servers in measured.items():
        cells = [cell for key in keys for cell in compared(key, servers)]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compared(key: str, servers: Mapping[str, Values]) -> tuple[str, str, str]:
    """Ours, theirs, and the median of the runs' ratios with whether it meets the target."""
    ours, theirs, target = servers[OURS][key], servers.get(PEER, {}).get(key), TARGETS.get(key)
    if theirs is None or key in ("failed", "grown MiB", "health s"):
        value = statistics.median(ours)
        kept = "" if target is None else _met(target, value)
        return _number(value), _number(statistics.median(theirs)) if theirs else "", kept
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    told = f"{ratio:.2f}" + (f", {_met(target, ratio)}" if target is not None else "")
    return _number(statistics.median(ours)), _number(statistics.median(theirs)), told


def _met(target: Target, value: float) -> str:
    return f"{target}, {'met' if target.met(value) else 'missed'}"


def _number(value: float) -> str:
    return f"{value:.3g}"


def main() -> None:
    options = _options()
    model = options.model or _demo()
    trained = check_llama(read_gguf(model)).context
    context = min(options.context, trained)
    commands = {OURS: own} if options.own else {OURS: own, PEER: peer}
    whole: dict[tuple[str, str], dict[str, Values]] = {}
    for _ in range(options.starts):
        with ExitStack() as stack:
            servers = [
                stack.enter_context(started(name, partial(command, model, options, context)))
                for name, command in commands.items()
            ]
            for server in servers:
                stream(server, server.prompts(1, PROMPT)[0], 4)
            long = min(LONG, context - 5 * ANSWER)
            for part, what, by_server in measured(servers, options, model, long):
                runs = whole.setdefault((part, what), {})
                for name, values in by_server.items():
                    for key, more in values.items():
                        runs.setdefault(name, {}).setdefault(key, []).extend(more)
                if options.write:
                    keep(part, what, runs, f"{model.stem}, {options.threads} threads")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--starts", type=int, default=1)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--own", action="store_true", help="without llama-server")
    parser.add_argument("--runs", type=int, default=1, help="how often to measure each")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--shared", type=int, nargs="+", default=[0, SHARED], help="tokens")
    parser.add_argument("--each", type=int, default=4, help="requests of each client")
    parser.add_argument("--soak", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--flash-attention", choices=("auto", "on", "off"), default="off")
    parser.add_argument("--write", action="store_true", help="keep the figures, and show them")
    parser.add_argument("parts", nargs="*", help="load, gaps, soak, run; without any, all of them")
    options = parser.parse_args()
    options.parts = options.parts or PARTS
    return options


def _demo() -> Path:
    from llamacli.models import locate

    return locate("demo")


if __name__ == "__main__":
    main()
