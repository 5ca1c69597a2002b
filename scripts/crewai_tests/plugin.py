"""A pytest plugin for crewAI's own tests: durable objects underneath, and the outcome of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--durable", action="store_true", help="Put durable objects underneath.")
    parser.addoption("--results", type=Path, help="Write the outcome of each test to this file.")


def pytest_configure(config: pytest.Config) -> None:
    results = config.getoption("--results")
    # With xdist the outcomes come together in the process that has no `workerinput`.
    if results is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes(results))


@pytest.fixture(scope="session", autouse=True)
def durable_underneath(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    if request.config.getoption("--durable"):
        from crewai_tests import underneath

        with underneath.launched(tmp_path_factory.mktemp("dbos") / "dbos.sqlite"):
            underneath.install()
            yield
    else:
        yield


class Outcomes:
    """Writes how each test ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._of: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has failed if it, or what comes before or after it, has."""
        if report.when == "call" or not report.passed:
            self._of[report.nodeid] = max(
                self._of.get(report.nodeid, ""), report.outcome, key=_BY_RANK
            )

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(json.dumps(self._of, indent=1))


_BY_RANK = ["", "passed", "skipped", "failed"].index
