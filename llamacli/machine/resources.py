"""What this machine has for a model: how many threads serve one best unmeasured, what the processor
can compute with, and how many bytes this process can still have, by the machine, its control group
and its limits."""

import ctypes
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from convert import allowed_processors
from llamacli import system
from llamacli.machine.native import build_features, library_comments

# The first minor version of GCC whose _tile_loadconfig is right; later major ones all are.
MENDED = {11: 5, 12: 4, 13: 3, **dict.fromkeys(range(11), 1 << 31)}

CGROUP = Path("/sys/fs/cgroup")
# Files of a control group, version 2 and version 1: the limit, what is used, and the field of
# memory.stat that counts pages of files, which the kernel takes back.
VERSIONS = (
    ("memory.max", "memory.current", ("active_file", "inactive_file")),
    (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
    ),
)


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

    allowed = usable_processors()
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


def usable_processors() -> int:
    """Those that this process may run on, and whose time its control groups leave it, as a
    container's limit: llama.cpp's threads spin, and more would use that time up waiting."""
    usable = allowed_processors()
    for folder in _own_groups(Path("/proc/self/cgroup")):
        with suppress(OSError, ValueError):  # no such file, or "max"
            quota, period = map(int, (folder / "cpu.max").read_text("ascii").split())
            usable = min(usable, max(quota // period, 1))
    return usable


def thread_counts() -> list[int]:
    """Numbers of threads worth a try: performance cores, physical cores, all processors."""
    fast = min(_fast_cores(), physical_cores())
    return sorted({count for count in (fast, physical_cores(), usable_processors()) if count})


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


@dataclass(frozen=True)
class FreeMemory:
    """resident: bytes that can become resident, and whose limit that is; address_space: bytes
    that can still be mapped, None where nothing limits them."""

    resident: int
    limit: str = "of memory"
    address_space: int | None = None


def free_memory() -> FreeMemory:
    """What is free now; pages of files that the system would give back count as free."""
    import psutil

    free, limit = psutil.virtual_memory().available, "of memory"
    group = cgroup_free(_own_groups(Path("/proc/self/cgroup")))
    if group is not None and group < free:
        free, limit = group, "under the control group's limit"
    most = system.address_space_limit()
    mapped = 0 if most is None else int(psutil.Process().memory_info().vms)
    return FreeMemory(free, limit, None if most is None else max(most - mapped, 0))


def cgroup_free(folders: list[Path]) -> int | None:
    """The least that any of these control groups leaves; None where none has a limit."""
    left = [
        free
        for folder in folders
        for version in VERSIONS
        if (free := _group_free(folder, *version)) is not None
    ]
    return min(left, default=None)


def _group_free(folder: Path, limit: str, used: str, reclaimable: tuple[str, ...]) -> int | None:
    try:
        most = int((folder / limit).read_text("ascii"))
        taken = int((folder / used).read_text("ascii"))
        lines = (folder / "memory.stat").read_text("ascii").splitlines()
    except (OSError, ValueError):  # no such group, or "max"
        return None
    counts = dict(line.split(maxsplit=1) for line in lines)
    files = sum(int(counts.get(name, 0)) for name in reclaimable)
    return max(most - max(taken - files, 0), 0)


def _own_groups(listed: Path) -> list[Path]:
    """The folders of this process's memory control group and of all around it."""
    try:
        lines = listed.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = CGROUP / "memory" if controllers else CGROUP
        own = root / path.lstrip("/")
        folders += [f for f in (own, *own.parents) if f == root or root in f.parents]
    return folders
