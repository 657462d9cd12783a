"""The processor: how many threads serve a model best unmeasured, and what it can compute with."""

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convert import allowed_processors
from llamacli import system
from llamacli.machine.native import build_features, library_comments

# The first minor version of GCC whose _tile_loadconfig is right; later major ones all are.
MENDED = {11: 5, 12: 4, 13: 3, **dict.fromkeys(range(11), 1 << 31)}


@dataclass(frozen=True)
class Processor:
    """cores: how many threads to use at first; features: what llama.cpp's build makes use of."""

    cores: int
    features: frozenset[str]


def this_processor() -> Processor:
    """This machine's processor, with features as ggml names them, AVX512 say.

    A build whose code for AMX would end the process counts as one without it and without REPACK,
    by which llama.cpp chooses that code.
    """
    told = build_features().get("CPU", {})
    features = frozenset(name for name, value in told.items() if value != "0")
    if "AMX_INT8" in features and not configures_tiles(library_comments()):
        features -= {"AMX_INT8", "REPACK"}
    return Processor(physical_cores(), features)


def configures_tiles(comments: Sequence[str]) -> bool:
    """Whether compilers with such names made AMX's code right.

    GCC before 11.5, 12.4, 13.3 and 14 (its bug 114098) drops most of the tiles' configuration,
    and the first product on them is a general protection fault.
    """
    matches = [re.match(r"GCC: \(.*\) (\d+)\.(\d+)", comment) for comment in comments]
    versions = [(int(one[1]), int(one[2])) for one in matches if one]
    return bool(comments) and all(minor >= MENDED.get(major, 0) for major, minor in versions)


def physical_cores() -> int:
    """Physical cores that this process may run on; on Apple silicon the performance cores.

    A second thread on a core (SMT) shares the units that the matrix products keep busy.
    """
    if system.MACOS and (cores := _performance_cores()):
        return cores
    import psutil

    allowed = allowed_processors()
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


def thread_counts() -> list[int]:
    """Numbers of threads worth a try: performance cores, physical cores, all processors."""
    fast = min(_fast_cores(), physical_cores())
    return sorted({count for count in (fast, physical_cores(), allowed_processors()) if count})


def _fast_cores(devices: Path = Path("/sys/devices")) -> int:
    """Cores of the fastest kind where Linux knows of several kinds, else 0.

    Intel's hybrid processors list the processors of their fast cores, two a core with SMT; ARM's
    have a capacity each.
    """
    folder = devices / "system" / "cpu"
    try:
        listed = devices / "cpu_core" / "cpus"
        if listed.exists():
            names = [f"cpu{number}" for number in _numbers(listed.read_text("ascii"))]
            return len({(folder / n / "topology" / "core_id").read_text("ascii") for n in names})
        capacities = [
            int(file.read_text("ascii")) for file in folder.glob("cpu[0-9]*/cpu_capacity")
        ]
    except (OSError, ValueError):
        return 0
    return capacities.count(max(capacities)) if len(set(capacities)) > 1 else 0


def _numbers(text: str) -> list[int]:
    """The numbers of a list as Linux writes it: 0-3,8."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _performance_cores() -> int:
    value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    name = b"hw.perflevel0.physicalcpu"
    failed = ctypes.CDLL(None).sysctlbyname(
        name, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)
    )
    return 0 if failed else value.value
