"""A crew killed with SIGKILL at entries of each kind is finished by another process."""

from __future__ import annotations

import pytest

from crews.crashing import STRICT, check, check_memory
from crews.scenarios import SCENARIOS
from support.crashing import killed_apart, killed_in_chains, one_moment_each, survives

pytestmark = [pytest.mark.crash, pytest.mark.some_entries]

APART = ("sequential", "at once")
"""Scenarios whose every kill has a run of its own, which one process finishes."""


@pytest.mark.parametrize("name", STRICT)
def test_entries_of_each_kind(name: str) -> None:
    apart = name in APART
    check(name, "sqlite", one_moment_each, killed_apart if apart else killed_in_chains)


def test_a_stream() -> None:
    scenario = SCENARIOS["sequential"]
    inputs = {"inputs": scenario.inputs}
    survives("crews.calls:stream", inputs, model=scenario.script)


def test_memory() -> None:
    check_memory("sqlite", 6)


@pytest.mark.every_moment
@pytest.mark.parametrize("name", STRICT)
def test_every_moment(name: str, database_kind: str) -> None:
    """All four moments of every entry: ``make every-moment``."""
    check(name, database_kind, lambda test: test.positions(), killed_apart)
