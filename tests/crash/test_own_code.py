"""Child workflows, transactions, steps in tools and in handlers, killed at rows of each kind.

What DBOS recorded of the user's own code is not done again, a transaction commits once, and each
event is handled once.
"""

from __future__ import annotations

import pytest

from crash.names import ASK
from crewai_dbos.testing import Reply, Request, ToolCall, text, tool_calls
from crewai_dbos.testing.crash import CrashTest
from support.crashing import killed_in_chains, some_positions, taking_turns

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
        kills = some_positions(taking_turns(every))
        wrong = [str(v) for v in killed_in_chains(test, kills) if not v.ok]
    assert not wrong, "\n".join(wrong)
