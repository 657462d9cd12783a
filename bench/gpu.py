"""Everything that is promised on a GPU, beside llama.cpp's programs, in at most 8 minutes.

    LLAMACLI_TOOLS=DIR python -m bench.gpu [--model FILE] [--out FILE] [--rounds 3] [STAGE …]

DIR holds llama-bench, llama-batched-bench, llama-server and, where it is to be measured,
llama-imatrix, built for the GPU from the commit that the package has. Without a model one of 8B
shape is made up (tests/standins/walk.py). Each stage is a process with a limit of its own, and what
it found is told, and written to the file, before the next one begins; one that fails harms no
other.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.compare import Target
from tests.standins.walk import write_walk

LIMITS = {  # seconds
    "commands": 30, "decoding": 75, "batch": 130, "serve": 110, "drafts": 120, "imatrix": 50,
    "micro_batches": 60,
}  # fmt: skip
TARGETS = {
    "decoding": {
        "greedy to llama-bench": Target(0.97),
        "temperature 0.7 to llama-bench": Target(0.97),
        "the file's own to llama-bench": Target(0.97),
        "Python's share": Target(0.03, most=True),
    },
    "batch": {
        "8 greedy to llama-server": Target(1.2),
        "32 greedy to llama-server": Target(2.0),
        "8 greedy, Python's share": Target(0.03, most=True),
        "32 greedy, Python's share": Target(0.03, most=True),
    },
    "serve": {
        **{f"{n}, nothing shared: tokens/s, ratio": Target(1.0)
           for n in ("1 client", "4 clients", "8 clients")},
        "3 streams while 4,000 tokens come in: gap p99, ratio": Target(0.5, most=True),
    },
    "drafts": {
        "one change, drafts to plain": Target(5.0),
        "one change, same answer": Target(1.0),
        "a change every 30 tokens, same answer": Target(1.0),
    },
    "imatrix": {"ratio": Target(0.9)},
}  # fmt: skip


def run_stage(stage: str, model: Path, rounds: int, limit: float) -> dict[str, Any]:
    """What it found, or {"failed": why}."""
    if sys.platform == "win32":
        raise SystemExit("the servers that a stage starts can't be ended here")
    command = [sys.executable, "-m", "bench.on_gpu", stage, str(model), "--rounds", str(rounds)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        told, _ = child.communicate(timeout=limit)
        if child.returncode:
            return {"failed": f"it ended with code {child.returncode}; stderr says why"}
        found: dict[str, Any] = json.loads(told.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"failed": f"it took more than {limit:.0f} s"}
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # the servers that it started, too
        child.wait()
    return found


def commands(model: Path) -> dict[str, Any]:
    """What `run` tells on stderr, where nothing of llama.cpp may be, and the devices."""
    program = [sys.executable, "-m", "llamacli"]
    options = ["run", "-m", str(model), "--temp", "0", "-n", "8", "hi"]
    ran = subprocess.run([*program, *options], capture_output=True, text=True)
    there = subprocess.run([*program, "devices"], capture_output=True, text=True)
    print(there.stdout + there.stderr)
    return {"exit code": ran.returncode, "run's stderr": ran.stderr}


def shown(found: Mapping[str, Any], targets: Mapping[str, Target]) -> str:
    lines = []
    for name, value in found.items():
        met = ""
        if name in targets:
            met = f" ({targets[name]}: {'met' if targets[name].met(value) else 'MISSED'})"
        lines.append(f"  {name}: {value:.4g}{met}" if isinstance(value, float) else
                     f"  {name}: {value!r}{met}")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("stages", nargs="*", choices=[[], *LIMITS], default=[])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--shape", default="8b")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or write_walk(Path(folder) / f"{given.shape}.gguf", given.shape)
        print(f"{model.name}: {model.stat().st_size / 1e9:.2f} GB, {_since(begun)}")
        results: dict[str, Any] = {}
        for stage in given.stages or LIMITS:
            if stage == "commands":
                results[stage] = commands(model)
            else:
                results[stage] = run_stage(stage, model, given.rounds, LIMITS[stage])
            print(f"{stage}, {_since(begun)}\n{shown(results[stage], TARGETS.get(stage, {}))}")
            sys.stdout.flush()
            if given.out is not None:
                given.out.write_text(json.dumps(results, indent=1) + "\n")


def _since(begun: float) -> str:
    return f"{time.perf_counter() - begun:.0f} s from the start"


if __name__ == "__main__":
    main()
