"""A crew killed with SIGKILL at every entry of its journal is finished by another process."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from crewai_dbos.testing.crash import CrashTest, Position
from crews.definitions import attribute
from crews.scenarios import SCENARIOS

AT_ONCE = 6


def one_moment_each(every: Sequence[Position]) -> list[Position]:
    """A position for each entry, the moments taking turns."""
    entries = dict.fromkeys(position.entry for position in every)
    chosen = []
    for number, entry in enumerate(entries):
        moments = [position for position in every if position.entry == entry]
        chosen.append(moments[number % len(moments)])
    return chosen


@pytest.mark.parametrize(
    "name",
    [name for name, each in SCENARIOS.items() if not each.racing and not each.shared_state],
)
def test_every_entry(name: str, database_kind: str) -> None:
    scenario = SCENARIOS[name]
    with CrashTest(
        f"crews.definitions:{attribute(name)}",
        {"inputs": scenario.inputs},
        model=scenario.script,
        database=database_kind,
    ) as test:
        on_sqlite = database_kind == "sqlite"
        chosen = one_moment_each(test.positions()) if on_sqlite else test.positions(3, seed=4)
        verdicts = list(test.run_all(chosen, AT_ONCE))
    wrong = [str(verdict) for verdict in verdicts if not verdict.ok]
    assert not wrong, "\n".join(wrong)


def test_memory(database_kind: str) -> None:
    """A save of memory that was cut short is done again, with prompts that have new ids in them.

    All else is as of any crew.
    """
    scenario = SCENARIOS["memory"]
    with CrashTest(
        "crews.definitions:memory",
        {"inputs": scenario.inputs},
        model=scenario.script,
        database=database_kind,
    ) as test:
        chosen = test.positions(10 if database_kind == "sqlite" else 3, seed=1)
        verdicts = list(test.run_all(chosen, AT_ONCE))
    for verdict in verdicts:
        ended = verdict.observed.ended
        assert ended["status"] == "SUCCESS", str(verdict)
        assert ended["answer"]["raw"] == test.undisturbed.ended["answer"]["raw"]
        assert not [name for name in verdict.repeated if "/memory.save(" not in name], str(verdict)
