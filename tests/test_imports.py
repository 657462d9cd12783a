"""Packages stand in one order and import downwards only, and others through their faces alone."""

import ast
import importlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest

from tests.standins.systems.lacking import LACKING

ROOT = Path(__file__).resolve().parents[1]
ORDER = (
    *("errors", "system", "home", "terminal", "machine", "gguf", "workers", "engine", "speculate"),
    *("prompt", "tune", "shape", "tools", "mcp_client", "answer", "chat", "batch", "models", "hub"),
    *("serve", "show", "repl", "verify", "quality", "commands", "cli"),
)
PACKAGES = [name for name in ORDER if (ROOT / "llamacli" / name).is_dir()]
FACELESS = {"commands"}  # each of its modules is a verb, imported where it is called


def modules(package: str) -> dict[str, Path]:
    """Every module below a package of the repository by its dotted name."""
    sources = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        sources[".".join(parts).removesuffix(".__init__")] = path
    return sources


MODULES = modules("llamacli") | modules("convert")
EVERY = MODULES | modules("bench") | modules("demo") | modules("tests")


@cache
def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(module, names from it) of every import, those within functions and for types too."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((name.name, []) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield str(node.module), [name.name for name in node.names]


def imported(name: str) -> set[str]:
    """The modules of this repository that a module names in an import."""
    targets = set()
    for module, names in imports(MODULES[name]):
        targets |= {f"{module}.{n}" if f"{module}.{n}" in MODULES else module for n in names}
        targets |= set() if names else {module}
    return {module for module in targets if module in MODULES}


def place(name: str) -> int:
    """The place in the order of a module's package; the program's own name is below all."""
    return ORDER.index(name.split(".")[1]) if "." in name else -1


def within(name: str, package: str) -> bool:
    return name.startswith(f"{package}.")


def test_the_order_names_every_package_and_module() -> None:
    there = {name.split(".")[1] for name in MODULES if name.startswith("llamacli.")}
    assert there - {"__main__"} == set(ORDER)


def test_imports_go_down_only() -> None:
    wrong = [
        f"{name} imports {other}"
        for name in MODULES
        if name.startswith("llamacli.") and name != "llamacli.__main__"
        for other in imported(name)
        if other.startswith("llamacli") and place(other) > place(name)
    ]
    assert not wrong


def test_the_converter_never_imports_the_program() -> None:
    assert not [n for n in modules("convert") if any(i.startswith("llamacli") for i in imported(n))]


def test_the_readme_names_every_package_in_that_order() -> None:
    """And as it is: no package uses one that is named after it."""
    told = (ROOT / "README.md").read_text(encoding="utf-8").partition("- `llamacli/`, from")[2]
    named = re.findall("`([a-z_]+)`", told.partition("Below all of them")[0])
    assert named == [name for name in ORDER if name in PACKAGES]


def test_no_import_goes_in_a_circle() -> None:
    """A package's __init__ imports nothing by itself, so circles are among modules alone."""
    done: set[str] = set()

    def follow(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(imported(name)):
                follow(other, (*path, name))
            done.add(name)

    for name in MODULES:
        follow(name, ())


def test_other_packages_are_imported_through_their_faces() -> None:
    wrong = []
    for name, path in MODULES.items():
        if name.startswith("llamacli."):
            own = name.split(".")[1]
            for module, _ in imports(path):
                parts = module.split(".")
                inside = parts[0] == "llamacli" and len(parts) > 2
                inside = inside and parts[1] not in {own, *FACELESS}
                if inside or (parts[0] == "convert" and len(parts) > 1):
                    wrong.append(f"{name} imports {module}")
    assert not wrong


FACES = [f"llamacli.{name}" for name in PACKAGES if name not in FACELESS]
FACES += [name for name in modules("convert") if MODULES[name].name == "__init__.py"]


def reading_order(package: str) -> list[str]:
    """The modules of a package in the order in which its first lines have them read."""
    told = importlib.import_module(package).__doc__ or ""
    return told.partition("order: ")[2].partition(".\n")[0].replace("\n", " ").split(", ")


@pytest.mark.parametrize("package", FACES)
def test_a_face_tells_what_it_is_and_gives_what_it_names(package: str) -> None:
    face = importlib.import_module(package)
    for name in face.__all__:
        assert hasattr(face, name), name
    inside = {n.removeprefix(f"{package}.").split(".")[0] for n in MODULES if within(n, package)}
    assert sorted(reading_order(package)) == sorted(inside)


@pytest.mark.parametrize("package", FACES)
def test_modules_are_read_after_those_that_they_use(package: str) -> None:
    for earlier, later in combinations([f"{package}.{n}" for n in reading_order(package)], 2):
        for name in MODULES:
            if name == earlier or within(name, earlier):
                used = [n for n in imported(name) if n == later or within(n, later)]
                assert not used, f"{name} uses {later}"


def test_benchmarks_and_tests_share_nothing_but_the_standins() -> None:
    forbidden = {"bench": ("tests.",), "tests.standins": ("tests.", "bench.")}
    for user, theirs in forbidden.items():
        for name, path in (modules("bench") | modules("tests")).items():
            if name.startswith(user):
                taken = [m for m, _ in imports(path) if f"{m}.".startswith(theirs)]
                assert all(m.startswith("tests.standins") for m in taken), name


def given_by(module: str) -> set[str]:
    """The names that a module has once it is imported, or a package's face and its modules."""
    names = {name.removeprefix(f"{module}.") for name in EVERY if within(name, module)}
    stub = EVERY[module].with_suffix(".pyi")
    for node in at_import(parsed(stub if stub.exists() else EVERY[module])):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {name.asname or name.name for name in node.names}
    return names


def test_what_benchmarks_and_the_demos_scripts_import_is_there() -> None:
    """Most of them run by hand alone."""
    missing = {
        f"{name}: {module}.{one}"
        for name, path in (modules("bench") | modules("demo")).items()
        for module, names in imports(path)
        if module in EVERY
        for one in set(names) - given_by(module)
    }
    assert not missing


def test_threads_are_handed_work_that_no_signal_cuts_short() -> None:
    """By convert's Pool: one that arrives in a pool's locks would leave them held."""
    users = {
        name
        for name, path in MODULES.items()
        if any("ThreadPoolExecutor" in names for _, names in imports(path))
    }
    assert users == {"convert.pool"}


def test_only_system_asks_which_system_it_is() -> None:
    asked = re.compile(r"\bsys\.platform\b|\bos\.name\b|\bplatform\.system\(|\bos\.uname\b")
    wrong = [
        name
        for name, path in MODULES.items()
        if asked.search(path.read_text(encoding="utf-8")) and not name.endswith(".system")
    ]
    assert not wrong


def lacked(nodes: Iterable[ast.AST]) -> list[str]:
    """What these nodes use that macOS or Windows has not; st_blocks no stand-in could take away."""
    lacking = {
        name: set().union(*(lacks.get(name, "").split() for lacks in LACKING.values()))
        for name in {name for lacks in LACKING.values() for name in lacks}
    }
    used: list[tuple[str, str]] = []
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.append((node.value.id, node.attr))
        elif isinstance(node, ast.Import):
            used += [("modules", name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            used += [(str(node.module), name.name) for name in node.names]
            used.append(("modules", str(node.module)))
    return [f"{a}.{b}" for a, b in used if b == "st_blocks" or b in lacking.get(a, ())]


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What is evaluated when a module is imported: all but the bodies of functions."""
    yield node
    inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    body = {"body"} if inside else set()
    for name, value in ast.iter_fields(node):
        for child in () if name in body else value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from at_import(child)


def test_only_system_uses_what_macos_or_windows_lacks() -> None:
    """Wherever it stands, whether a test gets there or not."""
    collected = {name: lacked(ast.walk(parsed(path))) for name, path in MODULES.items()}
    assert not {name: used for name, used in collected.items() if used}.keys() - {
        "llamacli.system",
        "convert.system",
    }


def test_tests_are_collected_on_macos_and_windows() -> None:
    collected = {
        name: lacked(at_import(parsed(path)))
        for name, path in modules("tests").items()
        if not name.startswith("tests.standins.systems")
    }
    assert not {name: used for name, used in collected.items() if used}
