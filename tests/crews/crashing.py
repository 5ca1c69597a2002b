"""Killing the run of a scenario."""

from __future__ import annotations

from crews.definitions import attribute
from crews.scenarios import SCENARIOS
from support.crashing import Choice, Kill, killed_apart, killed_in_chains, survives, verdicts

STRICT = [name for name, each in SCENARIOS.items() if not each.racing and not each.shared_state]
"""The scenarios whose journal is the same every time."""


def check(name: str, database: str, choose: Choice, kill: Kill = killed_in_chains) -> None:
    """Kill the scenario's run at the chosen positions."""
    scenario = SCENARIOS[name]
    target = f"crews.definitions:{attribute(name)}"
    inputs = {"inputs": scenario.inputs}
    survives(target, inputs, choose, kill, model=scenario.script, database=database)


def check_memory(database: str, count: int) -> None:
    """A save of memory that was cut short is done again, with prompts that have new ids in them.

    All else is as of any crew.
    """
    scenario = SCENARIOS["memory"]
    for verdict in verdicts(
        "crews.definitions:memory",
        {"inputs": scenario.inputs},
        lambda test: test.positions(count, seed=1),
        killed_apart,
        model=scenario.script,
        database=database,
    ):
        ended = verdict.observed.ended
        assert ended["status"] == "SUCCESS", str(verdict)
        assert ended["answer"]["raw"] == "Writer remembers.", str(verdict)
        assert not [name for name in verdict.repeated if "/memory.save(" not in name], str(verdict)
