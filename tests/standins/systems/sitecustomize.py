"""Read when a Python starts: for our packages alone, Linux becomes what $LLAMACLI_SYSTEM names.

Other packages go on as they do, since what they do on those systems is theirs. Ours

- are told that sys.platform is darwin or win32, while llamacli.system and convert.system load;
- don't find what that system lacks in os, signal and the library of modules, nor /proc and /sys;
- and have its habits: on macOS no limit on memory can be set; on Windows files are opened as text
  unless O_BINARY is given, no file is removed or replaced while this process has it open, and a
  text file without a named encoding isn't UTF-8.
"""

import builtins
import contextlib
import importlib.machinery
import os
import signal
import sys
import types
import warnings

SYSTEM = os.environ.get("LLAMACLI_SYSTEM", "")
OURS = ("llamacli", "convert")

LACKING = {
    "macos": {
        "os": "posix_fadvise posix_fallocate sched_getaffinity preadv2 pwritev2",
        "signal": "SIGSTKFLT SIGPWR",
        "modules": "msvcrt",
    },
    "windows": {
        "os": "preadv pread pwritev pwrite posix_fadvise posix_fallocate sched_getaffinity fork "
        "forkpty openpty mkfifo getuid geteuid getgid setsid killpg statvfs uname fchmod fchown "
        "chown O_NOFOLLOW O_NONBLOCK O_DIRECTORY O_CLOEXEC WNOHANG sync",
        "signal": "SIGALRM setitimer ITIMER_REAL SIGHUP SIGCONT SIGKILL SIGPIPE SIGSTOP SIGTSTP "
        "SIGWINCH SIGUSR1 SIGUSR2 SIGQUIT pthread_sigmask",
        "modules": "fcntl resource termios tty pty pwd grp posix readline syslog",
    },
}
O_BINARY = 1 << 30


def is_ours(depth: int) -> bool:
    """Whether the nearest frame that isn't of Python's own files is of our packages."""
    frame = sys._getframe(depth)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.partition(".")[0] not in ("pathlib", "importlib", "os", "contextlib", __name__):
            return name.partition(".")[0] in OURS
        frame = frame.f_back
    return False


def hide(module: types.ModuleType, names: list[str], given: dict[str, object]) -> None:
    """Take names away from a module, and give it others, for our packages."""
    kept = {name: getattr(module, name) for name in names if hasattr(module, name)}
    for name in kept:
        delattr(module, name)

    def find(name: str) -> object:
        ours = is_ours(2)
        if name in (given if ours else kept):
            return (given if ours else kept)[name]
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__getattr__ = find  # type: ignore[method-assign]


class Told:
    """Finds llamacli.system and convert.system, and loads them on the system that is named."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name not in ("llamacli.system", "convert.system"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            before, sys.platform = sys.platform, {"macos": "darwin", "windows": "win32"}[SYSTEM]
            try:
                load(module)
            finally:
                sys.platform = before
            module.SHARED_LIBRARY = "lib{}.so"  # what is there, after all
            module.library_name = "lib{}.so".format

        spec.loader.exec_module = exec_module
        return spec


def without_modules(names: list[str], given: dict[str, types.ModuleType]) -> None:
    real = builtins.__import__

    def find(name: str, globals: dict | None = None, *rest: object, **more: object) -> object:
        ours = str((globals or {}).get("__name__", "")).partition(".")[0] in OURS
        if ours and name in given:
            return given[name]
        if ours and name in names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, globals, *rest, **more)

    builtins.__import__ = find


def without_kernel_files(event: str, arguments: tuple) -> None:
    if event == "open" and str(arguments[0]).startswith(("/proc/", "/sys/")) and is_ours(2):
        raise FileNotFoundError(2, "No such file or directory", str(arguments[0]))


def macos() -> None:
    import ctypes
    import fcntl
    import resource

    set_limit, control = resource.setrlimit, fcntl.fcntl

    def setrlimit(what: int, limits: tuple[int, int]) -> None:
        if what == resource.RLIMIT_AS and is_ours(2):
            raise ValueError("current limit exceeds maximum limit")
        set_limit(what, limits)

    def full_sync(descriptor: int, command: int, *rest: object) -> object:
        if command == fcntl.F_FULLFSYNC:
            return os.fsync(descriptor)
        return control(descriptor, command, *rest)

    resource.setrlimit, fcntl.fcntl, fcntl.F_FULLFSYNC = setrlimit, full_sync, 51
    load = ctypes.CDLL

    class Library(load):  # type: ignore[misc, valid-type]
        def __getattr__(self, name: str) -> object:
            return (lambda *_: -1) if name == "sysctlbyname" else super().__getattr__(name)

    ctypes.CDLL = Library


def windows() -> None:
    import fcntl
    import subprocess  # noqa: F401 - before there is an msvcrt: it asks for one

    def locking(descriptor: int, mode: int, count: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(13, "Permission denied") from error

    msvcrt = types.ModuleType("msvcrt")
    msvcrt.locking, msvcrt.LK_NBLCK, msvcrt.LK_UNLCK = locking, 2, 0
    without_modules(LACKING["windows"]["modules"].split(), {"msvcrt": msvcrt})

    open_file, remove, replace = os.open, os.unlink, os.replace

    def opened(path: object, flags: int, *rest: object, **more: object) -> int:
        if is_ours(2):
            assert flags & O_BINARY or os.path.isdir(path), f"{path} is opened as text"
            if os.path.isdir(path):
                raise PermissionError(13, "Permission denied", str(path))
        return open_file(path, flags & ~O_BINARY, *rest, **more)

    def refuse_open(path: object) -> None:
        """What Windows says of a file that is open; this process's own are looked at."""
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(path)
            for number in map(int, os.listdir("/proc/self/fd")):
                with contextlib.suppress(OSError):
                    if os.path.samestat(found, os.fstat(number)):
                        raise Busy(13, "The file is used by another process", str(path))

    class Busy(Exception):
        pass

    def guarded(change: object, *places: int) -> object:
        def changed(*paths: object, **more: object) -> object:
            if not more:  # tempfile's own, by folder descriptors, aside
                try:
                    for place in places:
                        refuse_open(paths[place])
                except Busy as busy:
                    raise PermissionError(*busy.args) from None
            return change(*paths, **more)

        return changed

    os.open = opened
    os.unlink = os.remove = guarded(remove, 0)
    os.replace = guarded(replace, 0, 1)
    rename = guarded(os.rename, 0, 1)

    def rename_new(path: object, new: object, **more: object) -> None:
        if os.path.lexists(new):
            raise FileExistsError(17, "The file is there already", str(new))
        rename(path, new, **more)

    os.rename = rename_new
    warnings.filterwarnings("ignore", category=EncodingWarning)  # of other packages
    warnings.filterwarnings("error", category=EncodingWarning, module=r"(llamacli|convert)\b")


if SYSTEM:
    given: dict[str, dict[str, object]] = {"os": {}, "signal": {}}
    if SYSTEM == "windows":
        windows()
        given = {"os": {"O_BINARY": O_BINARY, "O_NOINHERIT": 0}, "signal": {"SIGBREAK": 10}}
    else:
        macos()
        without_modules(["msvcrt"], {})
    for module in (os, signal):
        hide(module, LACKING[SYSTEM][module.__name__].split(), given[module.__name__])
    sys.meta_path.insert(0, Told())
    sys.addaudithook(without_kernel_files)
