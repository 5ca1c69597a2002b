"""Child workflows, transactions, steps in tools and in handlers, killed at rows of each kind.

What DBOS recorded of the user's own code is not done again, a transaction commits once, and each
event is handled once.
"""

from __future__ import annotations

import pytest

from crash import models
from crash.names import ASK
from crewai_dbos.testing import Reply, Request, ToolCall, text, tool_calls
from crewai_dbos.testing.crash import CrashTest
from support.crashing import killed_in_chains, some_positions, taking_turns
from support.databases import sqlite_here
from support.entries import EVERY

pytestmark = [pytest.mark.crash, pytest.mark.some_entries]

TURNS = [
    [ToolCall("order", {"part": "bolt"})],
    [ToolCall("pay", {"amount": 5})],
    [ToolCall("post", {"to": "Ann"})],
    [
        ToolCall("order", {"part": "nut"}),
        ToolCall("pay", {"amount": 7}),
        ToolCall("post", {"to": "Bob"}),
    ],
]


def script(request: Request) -> Reply:
    if request.assistant_turns < len(TURNS):
        return tool_calls(*TURNS[request.assistant_turns])
    return text(" ".join(f"{call}={result}" for call, result in request.tool_results))


@sqlite_here("database_kind")
def test_rows_of_each_kind(database_kind: str) -> None:
    with CrashTest(
        "crash.office:clerk",
        {"messages": ASK},
        model=script,
        setup="crash.office:open_for_business",
        left_behind="crash.office:ledger",
        database=database_kind,
    ) as test:
        assert test.undisturbed.ended["left behind"] == [5, 7]
        every = [p for p in test.positions() if p.moment in ("unrecorded", "after")]
        for step in ("pack#1", "stamp#1", "seal#1", "on_tool#1"):
            assert any(position.entry.endswith(step) for position in every)
        chosen = some_positions(every)
        if not EVERY:  # requests are killed in the matrix
            chosen = [p for p in chosen if "/llm#" not in p.entry]
        kills = taking_turns(chosen)
        wrong = [str(v) for v in killed_in_chains(test, kills) if not v.ok]
    assert not wrong, "\n".join(wrong)


def test_a_plain_tool_can_be_killed_before_its_first_line() -> None:
    """The model's answer that asks for it is recorded by then, and nothing has been sent."""
    with CrashTest("crash.plain:crew", model=models.letters(["Ann"])) as test:
        of_tool = [position for position in test.positions() if "/tool:" in position.entry]
        assert [p.moment for p in of_tool] == ["before", "during", "unrecorded", "after"]
        verdict = test.run(of_tool[0])
    assert verdict.ok, str(verdict)
    assert [effect.kind for effect in verdict.observed.effects] == ["letter"]
    assert len(verdict.observed.requests) == 2
