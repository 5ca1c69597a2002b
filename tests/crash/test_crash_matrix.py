"""A run killed with SIGKILL at every moment of every call is finished by another process.

No completed call is made again, the one in flight at most once, and the answer is the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crash import models
from crash.matrix import (
    Counts,
    Line,
    Observed,
    Setup,
    Verdict,
    judge,
    kill_and_recover,
    undisturbed,
)
from crash.names import RUN
from crash.positions import LLM, TOOL, Position, positions
from crash.processes import ForkServer, FreshProcess

AT_ONCE = 6
"""Positions that are worked on at the same time. A recovery mostly waits for DBOS's queue poll."""


MODES = {
    "react": ("react", models.react),
    "native": ("native", models.letters(["Ann"], ["Bob"])),
    # Two equal calls at the same time, and one that comes again in the next turn.
    "parallel": ("native", models.letters(["Ann", "Bob", "Ann"], ["Bob", "Eve"])),
}


# What the runs need -----------------------------------------------------------


@pytest.fixture
def setup(database: Any, server: ForkServer, tmp_path: Path) -> Callable[..., Setup]:
    """Builds the setup of a matrix."""

    def build(mode: str, entry: str, spawn: Any = server.start) -> Setup:
        agent, script = MODES[mode]
        directory = tmp_path / f"{mode}-{entry}"
        directory.mkdir(exist_ok=True)
        return Setup(
            script=script,
            order={"agent": agent, "entry": entry},
            run_id=RUN,
            start="crash.application:start",
            recover="crash.application:recover",
            spawn=spawn,
            database=database,
            directory=directory,
        )

    return build


class Report:
    """Collects the verdicts of one test."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.verdicts: list[Verdict] = []
        self.failures: list[str] = []
        self._started = time.monotonic()

    def add(self, label: object, verdict: Verdict, observed: Observed) -> None:
        self.verdicts.append(verdict)
        if verdict.wrong:
            log = [f"    | {line}" for line in observed.log.splitlines()[-15:]]
            self.failures.append("\n".join([f"{label}: {'; '.join(verdict.wrong)}", *log]))

    def counts(self) -> Counts:
        return Counts(self.name, self.verdicts, time.monotonic() - self._started)


@pytest.fixture
def report(request: pytest.FixtureRequest, all_lines: list[Line]) -> Iterator[Report]:
    name = request.node.name.removeprefix("test_")
    reported = Report(request.node.callspec.id if name.startswith("every") else name)
    yield reported
    all_lines.append(reported.counts().line())


# The tests --------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["sync", "async"])
@pytest.mark.parametrize("mode", MODES)
def test_every_position(mode: str, entry: str, setup: Any, report: Report) -> None:
    chosen = setup(mode, entry)
    expected = undisturbed(chosen)
    every = list(positions(expected.last.rows))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = pool.map(lambda position: kill_and_recover(chosen, expected, position), every)
        for position, observed in zip(every, results, strict=True):
            report.add(position, judge(observed, expected), observed)
    assert not report.failures, "\n".join(report.failures)


def test_killed_again_and_again(setup: Any, report: Report) -> None:
    """Each process gets one call further: it is killed before it could record the next one."""
    # Not the parallel calls: which of them the last process had recorded is a matter of chance.
    chosen = setup("native", "sync")
    expected = undisturbed(chosen)
    kills = [Position(row, "done") for row in expected.last.rows]
    observed = kill_and_recover(chosen, expected, *kills)
    report.add("every call in turn", judge(observed, expected, len(kills)), observed)
    assert not report.failures, "\n".join(report.failures)


def test_fresh_interpreters(setup: Any, report: Report) -> None:
    """The same without the fork server: a new interpreter imports the module and launches DBOS."""
    cases = [("parallel", "sync", TOOL, "inside"), ("react", "async", LLM, "inside")]

    def one(mode: str, entry: str, kind: str, moment: str) -> None:
        expected = undisturbed(setup(mode, entry))
        second = [row for row in expected.last.rows if row.kind == kind][1]
        position = Position(second, moment)
        observed = kill_and_recover(setup(mode, entry, FreshProcess), expected, position)
        report.add(f"{mode} {entry} {position}", judge(observed, expected), observed)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda case: one(*case), cases))
    assert not report.failures, "\n".join(report.failures)
