"""Killing a scenario's run where a test says, and what has to come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crewai_dbos.testing.crash import CrashTest, Position
from flows.definitions import attribute
from flows.scenarios import SCENARIOS

AT_ONCE = 6

Choice = Callable[[CrashTest], Sequence[Position]]


def check(name: str, database: str, choose: Choice) -> None:
    """Kill the scenario's run at the chosen positions, each time a new one."""
    scenario = SCENARIOS[name]
    with CrashTest(
        f"flows.definitions:{attribute(name)}",
        {"inputs": scenario.inputs},
        model=scenario.script,
        database=database,
    ) as test:
        found = list(test.run_all(choose(test), AT_ONCE))
    wrong = [str(verdict) for verdict in found if not verdict.ok]
    assert not wrong, "\n".join(wrong)
