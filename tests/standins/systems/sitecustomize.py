"""Read when a Python starts: for our packages alone, Linux becomes what $LLAMACLI_SYSTEM names.

Other packages go on as they do, since what they do on those systems is theirs. Ours

- are told that sys.platform is darwin or win32, while llamacli.system and convert.system load;
- don't find what that system lacks in os, signal and the library of modules, nor /proc and /sys;
- and have its habits: on macOS no limit on memory can be set; those of Windows are in habits.py.

st_blocks, which no module can hide, tests/test_systems.py looks for in the source.
"""

import builtins
import importlib.machinery
import os
import sys
import types
from collections.abc import Callable

from lacking import LACKING, OURS, is_ours
from linux import peak_resident

SYSTEM = os.environ.get("LLAMACLI_SYSTEM", "")


def hide(module: types.ModuleType, names: list[str], given: dict[str, object]) -> None:
    """Take names away from a module, and give it others, for our packages."""
    kept = {name: getattr(module, name) for name in names if hasattr(module, name)}
    for name in kept:
        delattr(module, name)

    def find(name: str) -> object:
        ours = is_ours(2, ())  # Python's own files know what there is
        if name in (given if ours else kept):
            return (given if ours else kept)[name]
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__getattr__ = find  # type: ignore[method-assign]


class Told:
    """Finds modules, and changes them when they are loaded.

    llamacli.system and convert.system are told, while they load, which system it is.
    """

    def __init__(self, changes: dict[str, Callable[[types.ModuleType], None]]) -> None:
        self.changes = changes

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        change = self.changes.get(name)
        if change is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        ours = name.partition(".")[0] in OURS

        def exec_module(module: types.ModuleType) -> None:
            before = sys.platform
            if ours:
                sys.platform = {"macos": "darwin", "windows": "win32"}[SYSTEM]
            try:
                load(module)
            finally:
                sys.platform = before
            change(module)

        spec.loader.exec_module = exec_module
        return spec


def with_libraries_that_are_there(module: types.ModuleType) -> None:
    module.library_name = "lib{}.so".format


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

    usage = resource.getrusage

    def getrusage(whose: int) -> object:
        """The peak is in bytes there, and this process's alone."""
        told = usage(whose)
        if not is_ours(2):
            return told
        return types.SimpleNamespace(
            ru_utime=told.ru_utime, ru_stime=told.ru_stime, ru_maxrss=peak_resident()
        )

    resource.getrusage = getrusage
    resource.setrlimit, fcntl.fcntl, fcntl.F_FULLFSYNC = setrlimit, full_sync, 51
    load = ctypes.CDLL

    class Library(load):  # type: ignore[misc, valid-type]
        def __getattr__(self, name: str) -> object:
            return (lambda *_: -1) if name == "sysctlbyname" else super().__getattr__(name)

    ctypes.CDLL = Library


def stand_in() -> None:
    changes = dict.fromkeys(("llamacli.system", "convert.system"), with_libraries_that_are_there)
    given: dict[str, dict[str, object]] = {}
    if SYSTEM == "windows":
        import habits

        given = habits.GIVEN
        changes |= habits.CHANGES
        without_modules(LACKING["windows"]["modules"].split(), {"msvcrt": habits.console()})
        habits.take_on()
    else:
        macos()
        without_modules(LACKING["macos"]["modules"].split(), {})
    for name, names in LACKING[SYSTEM].items():
        if name != "modules":
            change = lambda module, names=names: hide(  # noqa: E731
                module, names.split(), given.get(module.__name__, {})
            )
            if name in sys.modules:
                change(sys.modules[name])
            else:
                after = changes.get(name, lambda module: None)
                changes[name] = lambda module, change=change, after=after: (
                    after(module),
                    change(module),
                )
    sys.meta_path.insert(0, Told(changes))
    sys.addaudithook(without_kernel_files)


if SYSTEM:
    stand_in()
