"""`examples/approved_mail.py` and `examples/intake.py`: people answer, and processes are killed."""

from __future__ import annotations

import pytest

from crewai_dbos.control import Answer, Approve, Reply
from crewai_dbos.control import Request as Asked
from crewai_dbos.testing import Reply as Answered
from crewai_dbos.testing import Request, ToolCall, text, tool_calls
from crewai_dbos.testing.crash import CrashTest
from support.crashing import killed_in_chains

pytestmark = pytest.mark.crash

OUTSIDE = {"to": "ann@example.org", "subject": "Your kettle", "body": "It comes on Monday."}
INSIDE = {"to": "sales@office.example", "subject": "Kettle", "body": "Ann was told."}


def model(request: Request) -> Answered:
    done = len(request.tool_results)
    if done < 2:
        return tool_calls(ToolCall("send_email", [OUTSIDE, INSIDE][done]))
    return text(" ".join(result for _, result in request.tool_results))


def approve(request: Asked) -> Answer:
    assert request.question.arguments == OUTSIDE  # colleagues are not asked about
    return Approve(arguments={"body": "It comes on Tuesday."})


def take(request: Asked) -> Answer:
    if request.question.outcomes:
        return Reply("yes")
    return Reply({"item": "kettle", "amount": 12})


def test_the_mail_is_sent_as_it_was_changed(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("mail"))
    inputs = {"inputs": {"mail": "Where is my kettle?"}}
    with CrashTest("approved_mail:office", inputs, model=model, people=approve) as test:
        told = test.undisturbed.ended["answer"]
        assert "A person has changed the arguments" in str(told)
        asked = [p for p in test.positions() if p.moment in ("asked", "parked")]
        wrong = [str(v) for v in killed_in_chains(test, asked, 1) if not v.ok]
    assert not wrong, "\n".join(wrong)


def test_the_order_is_taken() -> None:
    inputs = {"inputs": {"customer": "Ann"}}
    with CrashTest("intake:intake", inputs, people=take) as test:
        assert test.undisturbed.ended["answer"] == "yes"
        asked = [p for p in test.positions() if p.moment == "parked"]
        assert len(asked) == 2
        wrong = [str(v) for v in killed_in_chains(test, asked, 1) if not v.ok]
    assert not wrong, "\n".join(wrong)
