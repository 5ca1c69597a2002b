"""Killing the run of a scenario."""

from __future__ import annotations

from flows.definitions import attribute
from flows.scenarios import SCENARIOS
from support.crashing import Choice, survives


def check(name: str, database: str, choose: Choice) -> None:
    """Kill the scenario's run at the chosen positions, each time a new one."""
    scenario = SCENARIOS[name]
    target = f"flows.definitions:{attribute(name)}"
    inputs = {"inputs": scenario.inputs}
    survives(target, inputs, choose, model=scenario.script, database=database)
