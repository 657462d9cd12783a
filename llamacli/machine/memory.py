"""How many bytes this process can still have: the machine's, its control group's, its limits'."""

from dataclasses import dataclass
from pathlib import Path

from llamacli import system

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
