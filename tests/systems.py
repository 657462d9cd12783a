"""What a test needs of the system that it runs on; where that isn't there, it says so and skips."""

import os
import shutil
import sys
from importlib.util import find_spec

import pytest

# As `make test-systems` has it, the system that is stood in for (tests/standins/systems).
PLATFORM = {"macos": "darwin", "windows": "win32"}.get(
    os.environ.get("LLAMACLI_SYSTEM", ""), sys.platform
)
WINDOWS = PLATFORM == "win32"

needs_linux = pytest.mark.skipif(
    PLATFORM != "linux", reason="needs Linux: what it looks at is in /proc"
)
needs_limits = pytest.mark.skipif(
    WINDOWS or find_spec("resource") is None, reason="needs a system with limits of resources"
)
needs_signals = pytest.mark.skipif(
    WINDOWS, reason="needs a system whose processes are sent signals"
)
needs_pipes = pytest.mark.skipif(WINDOWS, reason="needs a system with named pipes and device files")
needs_unix_sockets = pytest.mark.skipif(
    WINDOWS, reason="needs a system with Unix sockets, by which programs ask the user's server"
)
needs_kills = pytest.mark.skipif(
    sys.platform == "win32", reason="needs a signal that ends a process at once, at a call of it"
)
needs_replacing = pytest.mark.skipif(
    WINDOWS, reason="needs a system where a file that a program has open can be replaced"
)
needs_owners = pytest.mark.skipif(
    WINDOWS or not hasattr(os, "geteuid"),
    reason="needs a system whose files can't be written by everybody",
)
needs_shell = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
needs_space_beforehand = pytest.mark.skipif(
    WINDOWS, reason="needs a system that takes a file's space before it is written"
)
needs_peak = pytest.mark.skipif(
    WINDOWS and sys.platform != "win32", reason="needs the peak of memory as Windows itself says it"
)
