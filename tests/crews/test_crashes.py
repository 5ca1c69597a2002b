"""A crew killed with SIGKILL at every entry of its journal is finished by another process."""

from __future__ import annotations

import pytest

from crewai_dbos.testing.crash import CrashTest
from crews.crashing import AT_ONCE, STRICT, check, check_memory, one_moment_each
from crews.scenarios import SCENARIOS


@pytest.mark.parametrize("name", STRICT)
def test_every_entry(name: str) -> None:
    check(name, "sqlite", one_moment_each)


def test_a_stream() -> None:
    scenario = SCENARIOS["sequential"]
    inputs = {"inputs": scenario.inputs}
    with CrashTest("crews.calls:stream", inputs, model=scenario.script) as test:
        wrong = [str(v) for v in test.run_all(one_moment_each(test), AT_ONCE) if not v.ok]
    assert not wrong, "\n".join(wrong)


def test_memory() -> None:
    check_memory("sqlite", 6)


@pytest.mark.every_moment
@pytest.mark.parametrize("name", STRICT)
def test_every_moment(name: str, database_kind: str) -> None:
    """All four moments of every entry: takes half an hour, so it is run by hand."""
    check(name, database_kind, lambda test: test.positions())
