"""A flow killed with SIGKILL at every entry of its journal is finished by another process."""

from __future__ import annotations

import pytest

from flows.crashing import check
from flows.scenarios import SCENARIOS
from support.moments import taking_turns

STRICT = [name for name, scenario in SCENARIOS.items() if not scenario.racing]
"""The scenarios that are the same every time."""


@pytest.mark.parametrize("name", STRICT)
def test_every_entry(name: str) -> None:
    check(name, "sqlite", lambda test: taking_turns(test.positions()))


@pytest.mark.every_moment
@pytest.mark.parametrize("name", STRICT)
def test_every_moment(name: str, database_kind: str) -> None:
    """All four moments of every entry: takes long, so it is run by hand."""
    check(name, database_kind, lambda test: test.positions())
