"""Killing a scenario's run where a test says, and what has to come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crewai_dbos.testing.crash import CrashTest, Position, Verdict
from crews.definitions import attribute
from crews.scenarios import SCENARIOS
from support.moments import taking_turns

AT_ONCE = 6

STRICT = [name for name, each in SCENARIOS.items() if not each.racing and not each.shared_state]
"""The scenarios whose journal is the same every time."""

Choice = Callable[[CrashTest], Sequence[Position]]


def verdicts(name: str, database: str, choose: Choice) -> list[Verdict]:
    """What became of the runs that were killed at the chosen positions."""
    scenario = SCENARIOS[name]
    with CrashTest(
        f"crews.definitions:{attribute(name)}",
        {"inputs": scenario.inputs},
        model=scenario.script,
        database=database,
    ) as test:
        return list(test.run_all(choose(test), AT_ONCE))


def check(name: str, database: str, choose: Choice) -> None:
    found = verdicts(name, database, choose)
    wrong = [str(verdict) for verdict in found if not verdict.ok]
    assert not wrong, "\n".join(wrong)


def one_moment_each(test: CrashTest) -> list[Position]:
    return taking_turns(test.positions())


def check_memory(database: str, count: int) -> None:
    """A save of memory that was cut short is done again, with prompts that have new ids in them.

    All else is as of any crew.
    """
    for verdict in verdicts("memory", database, lambda test: test.positions(count, seed=1)):
        ended = verdict.observed.ended
        assert ended["status"] == "SUCCESS", str(verdict)
        assert ended["answer"]["raw"] == "Writer remembers.", str(verdict)
        assert not [name for name in verdict.repeated if "/memory.save(" not in name], str(verdict)
