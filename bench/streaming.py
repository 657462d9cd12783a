"""Converting weights as they are read from the Hub, beside fetching them first.

    python -m bench.streaming [--shape 8b] [--layers 2] [--runs 3]

The Hub is the tests' stand-in on this machine, so that both ways have the same fast line, and
share the processors with it. Every run is a process of its own with an empty cache, in turn.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bench.compare import (
    Outcome,
    Setup,
    Target,
    add_options,
    figure,
    in_turn,
    ratio,
    set_up,
    table,
)
from tests.standins.checkpoint import SHAPES, shape_config, write_checkpoint
from tests.standins.hub import read_repo, serve

REPO = "owner/model"
SCRIPT = """
import sys
from llamacli.cli import main
from llamacli.tune.measure import peak_resident
try:
    main(sys.argv[1:])
except SystemExit as ended:
    assert not ended.code
print(peak_resident())
"""


class Run(NamedTuple):
    seconds: float
    peak: float  # MiB of memory
    disk: float  # GB, at the end


def convert_once(url: str, folder: Path, *options: str) -> Run:
    """One conversion from the Hub at url into an empty folder."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        settings = {"HF_ENDPOINT": url, "HF_HOME": f"{place}/hf", "LLAMACLI_HOME": f"{place}/store"}
        command = [sys.executable, "-c", SCRIPT, "convert", REPO, "--q4", *options]
        started = time.monotonic()
        printed = subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **settings},
        ).stdout
        seconds = time.monotonic() - started
        written = [
            path for path in Path(place).rglob("*") if path.is_file() and not path.is_symlink()
        ]
        disk = sum(path.stat().st_size for path in written) / 1e9
    return Run(seconds, int(printed.splitlines()[-1]) / 2**20, disk)


def measure(setup: Setup, shape: str = "8b", layers: int | None = 2) -> Outcome:
    if setup.quick:
        shape, layers = "1b", 1
    changes = {"num_hidden_layers": layers} if layers else {}
    write_checkpoint(setup.folder / "source", shape_config(shape, **changes), shards=2)
    with serve() as hub:
        hub.repos[REPO] = read_repo(setup.folder / "source")
        ways = {
            "streamed": lambda: convert_once(hub.url, setup.folder),
            "fetched first": lambda: convert_once(hub.url, setup.folder, "--download"),
        }
        results = in_turn(ways, setup.times(3))
    streamed, fetched = results["streamed"], results["fetched first"]
    memory = Target(1536, most=True)
    return Outcome(
        f"Conversion from the Hub, {f'{layers} layers of ' if layers else ''}{shape.upper()}",
        (
            *(figure(n, "seconds", [run.seconds for run in runs]) for n, runs in results.items()),
            figure("streamed, peak memory", "MiB", [run.peak for run in streamed], memory),
            *(
                figure(f"{n}, disk", "GB", [run.disk for run in runs])
                for n, runs in results.items()
            ),
        ),
        (
            ratio(
                "time streamed to fetched first",
                [run.seconds for run in streamed],
                [run.seconds for run in fetched],
            ),
        ),
        "Q4_K_M; the stand-in for the Hub runs on the same processors.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--layers", type=int, help="0 is all of them", default=2)
    arguments = add_options(parser).parse_args()
    with set_up(arguments) as setup:
        print(table(measure(setup, arguments.shape, arguments.layers)))


if __name__ == "__main__":
    main()
