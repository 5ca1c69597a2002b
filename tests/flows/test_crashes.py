"""A flow killed with SIGKILL at entries of each kind is finished by another process."""

from __future__ import annotations

import random

import pytest

from crewai_dbos.testing.crash import CrashTest, Position
from flows.conversation import replies
from flows.crashing import check
from flows.scenarios import SCENARIOS, echo
from support.crashing import (
    killed_apart,
    one_moment_each,
    some_positions,
    survives,
    taking_turns,
)
from support.entries import how_many

pytestmark = [pytest.mark.crash, pytest.mark.some_entries]

STRICT = [name for name, scenario in SCENARIOS.items() if not scenario.racing]
"""The scenarios that are the same every time."""


_shown: set[str] = set()
"""The kinds of entries that other scenarios were killed at."""


@pytest.mark.parametrize("name", STRICT)
def test_entries_of_each_kind(name: str) -> None:
    check(name, "sqlite", _one_moment_each)


def _one_moment_each(test: CrashTest) -> list[Position]:
    return one_moment_each(test, _shown)


def test_a_flow_that_is_built_when_its_module_is_imported() -> None:
    inputs = {"inputs": {"topic": "otters"}}
    survives("flows.module_level:flow", inputs, lambda test: test.positions(3, seed=2), model=echo)


def test_a_stream() -> None:
    scenario = SCENARIOS["sequence"]
    inputs = {"inputs": scenario.inputs}
    survives("flows.calls:stream", inputs, _one_moment_each, model=scenario.script)


def test_a_save_of_memory_that_goes_on_when_its_method_has_returned() -> None:
    def around_its_end(test: CrashTest) -> list[Position]:
        every = [p for p in test.positions() if "/method:learn_more#1/" in p.entry]
        every = some_positions(every)
        return [p for p in taking_turns(every) if "/memory.save(" not in p.entry] + [
            p for p in every if "/embedding(" in p.entry and p.moment in ("before", "unrecorded")
        ]

    scenario = SCENARIOS["remembering"]
    survives(
        "flows.definitions:remembering",
        {"inputs": scenario.inputs},
        around_its_end,
        killed_apart,
        model=scenario.script,
    )


def test_a_turn_of_a_conversation() -> None:
    said = {"message": "I want two chairs", "session_id": "s"}
    survives("flows.calls:turn", said, _one_moment_each, model=replies)


def test_many_rounds_killed_again_and_again() -> None:
    rounds, times = how_many(30, 300), how_many(3, 10)
    inputs = {"inputs": {"wanted": rounds}}
    with CrashTest("flows.definitions:long", inputs, model=echo, timeout=200) as test:
        assert test.undisturbed.made().total() > 4 * rounds
        kills = random.Random(11).sample(test.positions(), times)
        in_order = [position for position in test.positions() if position in kills]
        verdict = test.run(*in_order)
    assert verdict.ok, str(verdict)
    assert len(verdict.in_flight) <= times


@pytest.mark.every_moment
@pytest.mark.parametrize("name", STRICT)
def test_every_moment(name: str, database_kind: str) -> None:
    """All four moments of every entry: ``make every-moment``."""
    check(name, database_kind, lambda test: test.positions(), killed_apart)
