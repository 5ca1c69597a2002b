"""Killed around each wait, a run asks once, uses that answer, and does nothing twice."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from crewai_dbos.control import Answer, Approve, Feedback, Reply
from crewai_dbos.control import Request as Asked
from crewai_dbos.testing import Reply as Answered
from crewai_dbos.testing import Request, ToolCall, text, tool_calls
from crewai_dbos.testing.crash import CrashTest, CrashTestError
from support.crashing import killed_in_chains, some_positions, taking_turns
from support.databases import some_here
from support.entries import EVERY

pytestmark = [pytest.mark.crash, pytest.mark.some_entries]


def people(request: Asked) -> Answer:
    if request.kind == "approval":
        return Approve(arguments={"to": "bob"})
    if request.kind == "review":
        return (
            Approve() if "Friendlier" in (request.question.output or "") else Feedback("Friendlier")
        )
    if request.kind == "feedback":
        return Feedback("yes")
    return Reply(request.question.message.lower())


def script(request: Request) -> Answered:
    if "Sum up" in request.last_user_text or "Friendlier" in request.last_user_text:
        return text("Friendlier!" if "Friendlier" in request.last_user_text else "A line.")
    if not request.tool_results:
        return tool_calls(ToolCall("send_email", {"to": "ann", "body": "Hello."}))
    return text(request.tool_results[0][1])


def test_a_run_that_waits_for_nobody_says_so() -> None:
    with (
        CrashTest("people.definitions:intake", {}, timeout=10) as test,
        pytest.raises(CrashTestError, match=r"waits for a person .*--people MODULE:ANSWERS"),
    ):
        test.positions()


@pytest.mark.parametrize(
    ("target", "database_kind"),
    some_here(
        itertools.product(["mailing", "intake"], ["sqlite", "postgres"]),
        here=[("mailing", "sqlite"), ("intake", "postgres")],
    ),
    indirect=["database_kind"],
)
def test_around_every_wait(target: str, database_kind: str) -> None:
    options: dict[str, Any] = {"model": script} if target == "mailing" else {}
    with CrashTest(
        f"people.definitions:{target}", {}, people=people, database=database_kind, **options
    ) as test:
        every = test.positions()
        moments = {position.moment for position in every}
        assert {"asked", "parked"} <= moments
        entries = {p.entry for p in every if p.moment in ("asked", "parked")}
        around = [
            position
            for position in every
            if position.entry in entries and position.moment != "before"
        ]
        # Whoever was killed in a notice gives it again, as with every effect that was cut short.
        chosen = some_positions(around)
        verdicts = killed_in_chains(test, chosen if EVERY else taking_turns(chosen))
        wrong = [str(verdict) for verdict in verdicts if not verdict.ok]
        assert not wrong, "\n".join(wrong)
        for verdict in verdicts:
            names = [row for row in verdict.observed.rows if "/outcome#" not in row]
            assert len(names) == len(set(names))
