"""What a test needs of the system that it runs on; where that isn't there, it says so and skips."""

import os
import shutil
import sys
from importlib.util import find_spec

import pytest

needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux: what it looks at is in /proc"
)
needs_limits = pytest.mark.skipif(
    find_spec("resource") is None, reason="needs a system with limits of resources"
)
needs_signals = pytest.mark.skipif(
    sys.platform == "win32", reason="needs a system whose processes are sent signals"
)
needs_pipes = pytest.mark.skipif(
    sys.platform == "win32", reason="needs a system with named pipes and device files"
)
needs_owners = pytest.mark.skipif(
    not hasattr(os, "geteuid"), reason="needs a system whose files can't be written by everybody"
)
needs_shell = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
