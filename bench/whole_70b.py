"""All of 70B to Q4_K_M: 723 tensors and bounded memory, with weights that take no disk.

    python -m bench.whole_70b FOLDER [--checkpoint SOURCE]

Without --checkpoint a sparse one (zeros in files with holes) is made in FOLDER; the result, 42.5
GB, is written there and removed. Zeros are quantized faster than weights: the seconds are not those
of a real conversion, the memory and the types are.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from bench.checkpoint import shape_config, write_checkpoint

SCRIPT = """
import json, sys
from collections import Counter
from llamacli.measure import peak_resident
from convert import convert
report = convert(sys.argv[1], sys.argv[2], "Q4_K_M", force=True)
types = Counter(tensor.type.name for tensor in report.tensors)
print(json.dumps({"tensors": len(report.tensors), "types": types, "seconds": report.seconds,
                  "bytes": report.target_nbytes, "peak": peak_resident()}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()
    source = arguments.checkpoint or arguments.folder / "70b"
    if arguments.checkpoint is None:
        config = shape_config("70b", max_position_embeddings=8192, rope_scaling=None)
        write_checkpoint(source, config, shards=30, sparse=True)
    target = arguments.folder / "70b-Q4_K_M.gguf"
    command = [sys.executable, "-c", SCRIPT, str(source), str(target)]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    target.unlink()
    result = json.loads(child.stdout)
    types = ", ".join(f"{count} {name}" for name, count in sorted(result["types"].items()))
    print("| tensors | types | size | seconds | peak resident memory |")
    print("| ---: | --- | ---: | ---: | ---: |")
    print(
        f"| {result['tensors']} | {types} | {result['bytes'] / 1e9:.1f} GB "
        f"| {result['seconds']:.0f} | {result['peak'] / 2**20:.0f} MiB |"
    )


if __name__ == "__main__":
    main()
