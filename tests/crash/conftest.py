from typing import Any

import pytest

from crash.table import Line, table
from crewai_dbos.testing.crash._fork_server import ForkServer, fork_server

_lines: list[Line] = []


@pytest.fixture(scope="session")
def server() -> ForkServer:
    """A process that has imported the application, to be forked; the one that `CrashTest` uses."""
    return fork_server("crash.application")


@pytest.fixture
def all_lines() -> list[Line]:
    """The lines of the table that is printed when all tests are done."""
    return _lines


def pytest_sessionfinish(session: Any) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["crash matrix"] = _lines


def pytest_testnodedown(node: Any, error: Any) -> None:
    """A worker of pytest-xdist has counted for us."""
    _lines.extend(getattr(node, "workeroutput", {}).get("crash matrix", []))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _lines:
        terminalreporter.section("crash matrix")
        for line in table(_lines):
            terminalreporter.line(line)
