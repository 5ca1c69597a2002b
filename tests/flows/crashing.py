"""Killing the run of a scenario."""

from __future__ import annotations

from flows.definitions import attribute
from flows.scenarios import SCENARIOS
from support.crashing import Choice, Kill, killed_in_chains, survives


def check(name: str, database: str, choose: Choice, kill: Kill = killed_in_chains) -> None:
    """Kill the scenario's run at the chosen positions."""
    scenario = SCENARIOS[name]
    target = f"flows.definitions:{attribute(name)}"
    inputs = {"inputs": scenario.inputs}
    survives(target, inputs, choose, kill, model=scenario.script, database=database)
