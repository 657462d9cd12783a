"""A whole model to Q4_K_M in bounded memory: all tensors, their types, and an answer from it.

    python -m bench.whole 8b FOLDER [--checkpoint SOURCE]
    python -m bench.whole 70b FOLDER [--checkpoint SOURCE]

Without --checkpoint one is made in FOLDER: 8B with made-up weights (16 GB); 70B sparse, zeros in
files with holes, which are quantized faster than weights: there the memory and the types are those
of a real conversion, the seconds are not, and no answer is asked for. What is written is removed.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.standins.checkpoint import shape_config, write_checkpoint

SCRIPT = """
import json, sys
from collections import Counter
from llamacli.tune.measure import peak_resident
from convert import convert
report = convert(sys.argv[1], sys.argv[2], "Q4_K_M", force=True)
types = Counter(tensor.type.name for tensor in report.tensors)
print(json.dumps({"tensors": len(report.tensors), "types": types, "seconds": report.seconds,
                  "bytes": report.target_nbytes, "peak": peak_resident()}))
"""
RUN = ("run", "--temp", "0", "-n", "64", "--json", "Tell me of the sea.")


def write_source(shape: str, folder: Path) -> Path:
    """A checkpoint of that shape in folder."""
    if shape == "70b":
        config = shape_config("70b", max_position_embeddings=8192, rope_scaling=None)
        write_checkpoint(folder / shape, config, shards=30, sparse=True)
    else:
        write_checkpoint(folder / shape, shape_config(shape), shards=4)
    return folder / shape


def ask(model: Path) -> tuple[dict[str, Any], int]:
    """What `llamacli run --json` tells of an answer, and its peak resident memory in bytes."""
    if sys.platform == "win32":
        raise SystemExit("nothing tells here how much memory a program took")
    command = [sys.executable, "-m", "llamacli", *RUN, "-m", str(model)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    told = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, f"run ended with {os.waitstatus_to_exitcode(status)}"
    return json.loads(told), usage.ru_maxrss << 10


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("shape", choices=("8b", "70b"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()
    source = arguments.checkpoint or write_source(arguments.shape, arguments.folder)
    target = arguments.folder / f"{arguments.shape}-Q4_K_M.gguf"
    command = [sys.executable, "-c", SCRIPT, str(source), str(target)]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    result = json.loads(child.stdout)
    types = ", ".join(f"{count} {name}" for name, count in sorted(result["types"].items()))
    print("| tensors | types | size | seconds | peak resident memory |")
    print("| ---: | --- | ---: | ---: | ---: |")
    print(
        f"| {result['tensors']} | {types} | {result['bytes'] / 1e9:.1f} GB "
        f"| {result['seconds']:.0f} | {result['peak'] / 2**20:.0f} MiB |"
    )
    if arguments.shape == "8b":
        told, peak = ask(target)
        print(
            f"\nIt answers a prompt of {told['prompt_tokens']} tokens with {told['answer_tokens']} "
            f"in {told['seconds']:.1f} s, {told['tokens_per_second']:.1f} tokens a second, at a "
            f"peak of {peak / 1e9:.1f} GB with the mapped file."
        )
    target.unlink()


if __name__ == "__main__":
    main()
