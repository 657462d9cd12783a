"""Peak resident memory of this process."""

import resource
import sys
from pathlib import Path


def peak_resident() -> int:
    """Bytes. Linux's getrusage would count the parent's memory from before the exec as well."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
