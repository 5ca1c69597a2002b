import contextlib
import itertools
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS

from crash.matrix import Line, table
from crash.processes import ForkServer, fork_server

_lines: list[Line] = []


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    """A process that has imported the application, to be forked."""
    # openai imports its resources, 490 modules, at the first request.
    with fork_server("crash.application", "openai.resources") as started:
        yield started


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database: copying it is faster than migrating another."""
    path = tmp_path_factory.mktemp("template") / "dbos.sqlite"
    DBOS.migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Opens fresh databases of one kind, any number at the same time."""
    numbers = itertools.count()
    one_by_one = threading.Lock()

    @contextlib.contextmanager
    def sqlite() -> Iterator[str]:
        path = tmp_path / f"{next(numbers)}.sqlite"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"

    @contextlib.contextmanager
    def postgres() -> Iterator[str]:
        server = request.getfixturevalue("postgres")
        with one_by_one:
            url = server.create_database()
        yield url
        server.drop_database(url)

    return {"sqlite": sqlite, "postgres": postgres}[request.param]


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
