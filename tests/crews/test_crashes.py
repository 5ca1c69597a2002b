"""A crew killed with SIGKILL at entries of each kind is finished by another process."""

from __future__ import annotations

import pytest

from crews.crashing import STRICT, check, check_memory
from crews.scenarios import SCENARIOS
from support.crashing import killed_apart, one_moment_each, survives
from support.databases import some_here
from support.entries import how_many

pytestmark = [pytest.mark.crash, pytest.mark.some_entries]

HERE = (
    "sequential",
    "hierarchical",
    "parallel delegation",
    "at once",
    "guarded",
    "structured outputs",
    "output file",
    "planned",
    "reasoning",
    "knowledge",
    "callbacks",
    "cache",
    "durable agents",
    "trained",
    "mcp",
    "files",
    "child workflow",
)
"""Scenarios with entries that others don't have, or that leave something in a process."""

_shown: set[str] = set()
"""The kinds of entries that other scenarios were killed at."""


@pytest.mark.parametrize("name", some_here(STRICT, HERE))
def test_entries_of_each_kind(name: str) -> None:
    check(name, "sqlite", lambda test: one_moment_each(test, _shown))


def test_a_stream() -> None:
    scenario = SCENARIOS["sequential"]
    inputs = {"inputs": scenario.inputs}
    one = lambda test: one_moment_each(test, _shown)  # noqa: E731
    survives("crews.calls:stream", inputs, one, model=scenario.script)


def test_memory() -> None:
    check_memory("sqlite", how_many(2, 6))


@pytest.mark.every_moment
@pytest.mark.parametrize("name", STRICT)
def test_every_moment(name: str, database_kind: str) -> None:
    """All four moments of every entry: ``make every-moment``."""
    check(name, database_kind, lambda test: test.positions(), killed_apart)
