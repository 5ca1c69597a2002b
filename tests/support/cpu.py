"""What tests cost: CPU seconds of their process and of all below it. ``make pytest ARGS=--cpu``

A test pays for what it is the first to ask for: a fork server, a database server, a DBOS of its
package. What a process leaves at work when its test has ended is paid for by the next one.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

SHOWN = 30
_before = pytest.StashKey[float]()


def spent() -> float:
    """The CPU seconds of this process and of all below it, those that have ended with them."""
    own = psutil.Process()
    found = 0.0
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found += times.user + times.system + times.children_user + times.children_system
    return found


class Cpu:
    """Counts in each process that runs tests, and tells in the one that reports."""

    def __init__(self) -> None:
        self._tests: Counter[str] = Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        item.stash[_before] = spent()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Iterator[None]:
        if call.when == "teardown":
            item.user_properties.append(("cpu", spent() - item.stash[_before]))
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            self._tests[report.nodeid] += dict(report.user_properties).get("cpu", 0)  # type: ignore[assignment]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        files: Counter[str] = Counter()
        for test, seconds in self._tests.items():
            files[test.partition("::")[0]] += seconds
        terminalreporter.section(f"CPU seconds: {sum(files.values()):.1f}")
        for counted in (files, self._tests):
            for name, seconds in counted.most_common(SHOWN):
                terminalreporter.line(f"{seconds:8.2f}  {name}")
            terminalreporter.line("")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cpu", action="store_true", help="what tests cost in CPU seconds, with all they start"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--cpu"):
        config.pluginmanager.register(Cpu())
