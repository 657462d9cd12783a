"""A plugin of pytest: every test that SECURITY.md names has run and passed when all tests have.

On Linux; other systems lack what some of them need.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tests.systems import PLATFORM

NAMED = re.compile(r"`(tests/[\w/]+\.py::\w+)`")

_outcomes: list[tuple[str, str]] = []


def promised(root: Path) -> list[str]:
    """The tests that the SECURITY.md of a repository names, as path::function."""
    return NAMED.findall((root / "SECURITY.md").read_text(encoding="utf-8"))


def unkept(named: Sequence[str], outcomes: Iterable[tuple[str, str]]) -> list[str]:
    """Those of the named tests that never passed, with no parameters; outcomes are by node."""
    passed = {node.partition("[")[0] for node, outcome in outcomes if outcome == "passed"}
    return [test for test in named if test not in passed]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome == "skipped":
        _outcomes.append((report.nodeid, report.outcome))


def _is_whole(config: pytest.Config) -> bool:
    """Whether all tests were asked for, by the process that hears of all."""
    option = config.option
    narrowed = option.keyword or option.markexpr or option.collectonly or option.lf
    everywhere = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    worker = hasattr(config, "workerinput")
    return PLATFORM == "linux" and everywhere and not narrowed and not worker


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    whole = exitstatus == 0 and _is_whole(session.config)
    if whole and unkept(promised(session.config.rootpath), _outcomes):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if _is_whole(config):
        for test in unkept(promised(config.rootpath), _outcomes):
            terminalreporter.line(f"SECURITY.md names {test}, which has not passed here", red=True)
