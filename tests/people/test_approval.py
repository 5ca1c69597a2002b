"""A person is asked before a tool is called: with what, what may be changed, and who was first."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from crewai.flow.flow import Flow, start
from crewai.tools import BaseTool
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSFlow, People, ToolRequest
from crewai_dbos._people import asking, policy
from crewai_dbos.control import Answer, Approve, Control, Feedback, Reject, Reply, Request
from crewai_dbos.errors import (
    AlreadyAnswered,
    DefinitionError,
    InvalidAnswer,
    NotAllowed,
    RequestExpired,
    UnknownRequest,
)
from people.conftest import Called, Desk, status, until
from people.office import Post, office, writing
from support.databases import sqlite_here
from support.names import unique
from support.serving import Serve

MAIL = {"to": "ann@example.org", "body": "Hello."}
QUICK = People(approve_tools=["send_email"], linger=0.1)
ABOVE_SQL = sqlite_here("url")


def test_a_call_waits_as_a_row_and_is_made_as_it_was_changed(
    serve: Serve, desk: Desk, control: Control
) -> None:
    server = serve(writing(MAIL))
    post = Post()
    crew = office(post, People(approve_tools=["send_email"], linger=0.1, audience="support"))
    with SetWorkflowID(unique("mail")):
        run = crew.start({"who": "Ann"})
    request = desk.next(run.workflow_id)
    assert (request.kind, request.state, request.audience) == ("approval", "open", "support")
    assert request.question.tool == "send_email"
    assert request.question.arguments == {**MAIL, "copies": 1}
    assert request.question.agent == "Clerk"
    assert request.question.tool_description == "Send an email."
    assert request.question.task_description == "Write to Ann."
    assert request.question.schema["properties"]["copies"]["type"] == "integer"
    desk.parked(run.workflow_id)
    assert post.sent == []
    assert control.requests(audience="sales", run_id=run.workflow_id) == []
    control.answer(request.request_id, Approve(arguments={"to": "bob@example.org"}), by="ann")
    answer = run.get_result().raw
    assert post.sent == [{"to": "bob@example.org", "body": "Hello.", "copies": 1}]
    assert "A person has changed the arguments" in answer
    assert '{"to": "bob@example.org"}' in server.requests[1].tool_results[0][1]
    assert len(server.requests) == 2  # none was made again
    with pytest.raises(AlreadyAnswered, match="was answered by ann") as late:
        control.answer(request.request_id, Reject("no"), by="bob")
    assert (late.value.by, late.value.request_id) == ("ann", request.request_id)
    assert control.request(request.request_id).state == "used"


@ABOVE_SQL
def test_only_calls_that_a_function_names_are_asked_about(serve: Serve, desk: Desk) -> None:
    serve(writing({"to": "ann@example.org", "body": "a"}, {"to": "ceo@example.org", "body": "b"}))
    seen: list[ToolRequest] = []

    def is_important(request: ToolRequest) -> bool:
        seen.append(request)
        return request.arguments["to"].startswith("ceo")

    post = Post()
    run = office(post, People(approve_tools=is_important)).start({"who": "all"})
    request = desk.answer(run.workflow_id, Approve())
    run.get_result()
    assert request.question.arguments["to"] == "ceo@example.org"
    assert [mail["to"] for mail in post.sent] == ["ann@example.org", "ceo@example.org"]
    assert (seen[0].agent, seen[0].task) == ("Clerk", "1")


@ABOVE_SQL
def test_answers_that_do_not_fit_are_refused_and_the_run_waits_on(
    serve: Serve, desk: Desk, control: Control
) -> None:
    serve(writing(MAIL))
    post = Post()
    run = office(post, QUICK).start({"who": "Ann"})
    request_id = desk.next(run.workflow_id).request_id
    with pytest.raises(InvalidAnswer, match="copies: 'many' is not of type 'integer'"):
        control.answer(request_id, Approve(arguments={"copies": "many"}))
    with pytest.raises(InvalidAnswer, match="send_email has no argument 'tool'"):
        control.answer(request_id, Approve(arguments={"tool": "delete_all"}))
    with pytest.raises(InvalidAnswer, match=r"answered with Approve .* or Reject .*, not Reply"):
        control.answer(request_id, Reply("yes"))
    with pytest.raises(InvalidAnswer, match="not Feedback"):
        control.answer(request_id, Feedback("yes"))
    with pytest.raises(UnknownRequest, match="no request 'nobody'"):
        control.answer("nobody", Approve())
    assert control.request(request_id).state == "open"
    control.answer(request_id, Approve())
    run.get_result()
    assert len(post.sent) == 1


@ABOVE_SQL
def test_arguments_that_may_not_be_changed(serve: Serve, desk: Desk, control: Control) -> None:
    serve(writing(MAIL))
    post = Post()
    fixed = People(approve_tools=["send_email"], edit=False)
    run = office(post, fixed).start({"who": "Ann"})
    request_id = desk.next(run.workflow_id).request_id
    with pytest.raises(NotAllowed, match="may not be changed"):
        control.answer(request_id, Approve(arguments={"to": "bob@example.org"}))
    control.answer(request_id, Approve(arguments=MAIL))
    run.get_result()
    assert post.sent == [{**MAIL, "copies": 1}]


@pytest.mark.parametrize("parks", [True, False])
def test_nobody_answers_in_time(parks: bool, serve: Serve, control: Control) -> None:
    serve(writing(MAIL))
    post = Post()
    short = timedelta(seconds=2 if parks else 1)
    people = People(approve_tools=["send_email"], deadline=short, linger=0.1 if parks else 30)
    run = office(post, people).start({"who": "Ann"})
    (request,) = until(lambda: control.requests(run_id=run.workflow_id, only_open=False))
    assert request.deadline - request.created == short
    assert "nobody has answered in time" in run.get_result().raw
    assert post.sent == []
    with pytest.raises(RequestExpired, match="could be answered until"):
        control.answer(request.request_id, Approve())


@ABOVE_SQL
def test_silence_may_be_a_yes(serve: Serve) -> None:
    serve(writing(MAIL))
    post = Post()
    people = People(
        approve_tools=["send_email"], deadline=timedelta(seconds=1), on_deadline="approve"
    )
    office(post, people).kickoff({"who": "Ann"})
    assert len(post.sent) == 1


def test_silence_may_stop_the_run_which_asks_anew_when_it_is_resumed(
    serve: Serve, desk: Desk, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(writing(MAIL))
    post = Post()
    people = People(approve_tools=["send_email"], deadline=timedelta(seconds=1), on_deadline="fail")
    crew = office(post, people)
    run = crew.start({"who": "Ann"})
    with pytest.raises(RequestExpired, match="Nobody has answered in time") as stopped:
        run.get_result()
    assert f"crewai-dbos runs resume {run.workflow_id}" in str(stopped.value)
    (first,) = control.requests(run_id=run.workflow_id, only_open=False)
    monkeypatch.setattr(People, "seconds", None)  # from now on there is no deadline to miss
    DBOS.resume_workflow(run.workflow_id)
    second = desk.answer(run.workflow_id, Approve())
    assert second.request_id != first.request_id
    assert crew.retrieve(run.workflow_id).get_result().raw.startswith("sent to ann")
    assert (len(post.sent), len(server.requests)) == (1, 2)


@ABOVE_SQL
def test_a_kickoff_that_waits_here_gets_its_result(serve: Serve, desk: Desk) -> None:
    serve(writing(MAIL))
    post = Post()
    run_id = unique("here")
    crew = office(post, QUICK)

    def kickoff() -> str:
        with SetWorkflowID(run_id):
            return str(crew.kickoff({"who": "Ann"}).raw)

    called = Called(kickoff)
    desk.parked(run_id)
    desk.answer(run_id, Approve())
    assert called.result().startswith("sent to ann")
    assert len(post.sent) == 1


@ABOVE_SQL
def test_an_answer_before_the_run_is_left_to_its_row(serve: Serve, desk: Desk) -> None:
    serve(writing(MAIL))
    post = Post()
    run = office(post, People(approve_tools=["send_email"], linger=60)).start({"who": "Ann"})
    desk.answer(run.workflow_id, Approve())
    assert run.get_result().raw.startswith("sent to ann@example.org ["), "as it is"
    assert status(run.workflow_id) == "SUCCESS"
    assert post.sent == [{**MAIL, "copies": 1}]


@pytest.mark.parametrize("linger", [0.1, 60])
def test_a_cancelled_run_withdraws_what_it_asks(
    linger: float, serve: Serve, desk: Desk, control: Control
) -> None:
    serve(writing(MAIL))
    post = Post()
    people = People(approve_tools=["send_email"], linger=linger)
    crew = office(post, people)
    run = crew.start({"who": "Ann"})
    request = desk.next(run.workflow_id)
    if linger < 1:
        desk.parked(run.workflow_id)
    DBOS.cancel_workflow(run.workflow_id)
    assert control.requests(run_id=run.workflow_id) == []
    assert control.request(request.request_id).state == "withdrawn"
    with pytest.raises(RequestExpired, match="Nothing waits for request"):
        control.answer(request.request_id, Approve())
    # Resumed, it asks the same again.
    until(lambda: status(run.workflow_id) == "CANCELLED")
    DBOS.resume_workflow(run.workflow_id)
    assert desk.answer(run.workflow_id, Approve()).request_id == request.request_id
    crew.retrieve(run.workflow_id).get_result()
    assert len(post.sent) == 1


def test_a_fork_asks_anew_and_a_rewound_run_too(serve: Serve, desk: Desk, control: Control) -> None:
    serve(writing(MAIL))
    post = Post()
    crew = office(post, QUICK)
    run = crew.start({"who": "Ann"})
    desk.answer(run.workflow_id, Approve())
    run.get_result()
    steps = DBOS.list_workflow_steps(run.workflow_id)
    asked = next(s["function_id"] for s in steps if "approval" in s["function_name"])
    fork = DBOS.fork_workflow(run.workflow_id, asked).get_workflow_id()
    desk.answer(fork, Reject("Not twice"))
    assert "Not twice" in crew.retrieve(fork).get_result().raw
    assert len(post.sent) == 1
    # What is recorded as answered is not asked.
    kept = DBOS.fork_workflow(run.workflow_id, asked + 1).get_workflow_id()
    crew.retrieve(kept).get_result()
    assert control.requests(run_id=kept, only_open=False) == []
    assert len(post.sent) == 2


@ABOVE_SQL
def test_a_role_is_shown_with_its_inputs(serve: Serve, desk: Desk) -> None:
    serve(writing(MAIL))
    run = office(Post(), QUICK, "{who}'s\n clerk").start({"who": "Ann"})
    question = desk.next(run.workflow_id).question
    assert (question.message, question.agent) == ("May Ann's clerk call send_email?", "Ann's clerk")
    desk.answer(run.workflow_id, Approve())
    run.get_result()


@ABOVE_SQL
def test_a_request_that_waits_from_before_roles_were_shown_with_inputs(
    serve: Serve, desk: Desk, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(writing(MAIL))
    post = Post()
    with monkeypatch.context() as older:
        older.setattr(policy, "role_of", lambda agent: agent)
        run = office(post, QUICK, "{who}'s clerk").start({"who": "Ann"})
        request = desk.next(run.workflow_id)
        assert request.question.message == "May {who}'s clerk call send_email?"
        desk.parked(run.workflow_id)
    desk.answer(run.workflow_id, Approve())
    until(lambda: status(run.workflow_id) == "SUCCESS", 20)
    assert len(control.requests(run_id=run.workflow_id, only_open=False)) == 1
    assert len(post.sent) == 1


def waits(caplog: pytest.LogCaptureFixture, run_id: str) -> list[str]:
    """What a log that nobody has set up shows of a run that waits."""
    shown = [each for each in caplog.records if each.levelno >= logging.WARNING]
    said = [each.getMessage() for each in shown if each.name == "crewai_dbos"]
    return [line for line in said if run_id in line]


@ABOVE_SQL
def test_a_notice_and_the_log_say_once_that_a_run_waits(
    serve: Serve, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    serve(writing(MAIL))
    told: list[Request] = []
    people = People(approve_tools=["send_email"], linger=0.1, notify=told.append)
    run = office(Post(), people).start({"who": "Ann"})
    request = desk.next(run.workflow_id)
    desk.parked(run.workflow_id)
    DBOS.resume_workflow(run.workflow_id)  # unasked for: it looks, and waits again
    until(lambda: status(run.workflow_id) == "PENDING")
    desk.parked(run.workflow_id)
    desk.answer(run.workflow_id, Approve())
    run.get_result()
    assert waits(caplog, run.workflow_id) == [
        f"Run {run.workflow_id} waits for a person: May Clerk call send_email? Answer with: "
        f"crewai-dbos inbox (request {request.request_id[:8]})"
    ]
    assert [each.request_id for each in told] == [request.request_id]
    assert told[0].question.arguments == {**MAIL, "copies": 1}
    before = DBOS.fork_workflow(run.workflow_id, 100).get_workflow_id()  # a replay
    DBOS.retrieve_workflow(before).get_result()
    assert waits(caplog, before) == []


@ABOVE_SQL
def test_the_log_of_another_process_says_once_that_a_run_still_waits(
    serve: Serve, desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    notified: list[str] = []
    serve(writing(MAIL))
    people = People(
        approve_tools=["send_email"],
        linger=0.1,
        notify=lambda request: notified.append(request.request_id),
    )
    run = office(Post(), people).start({"who": "Ann"})
    request = desk.next(run.workflow_id)
    desk.parked(run.workflow_id)
    monkeypatch.setattr(asking, "_told_here", asking._ToldHere())  # as in a process begun anew
    for _ in range(2):
        DBOS.resume_workflow(run.workflow_id)
        until(lambda: status(run.workflow_id) == "PENDING")
        desk.parked(run.workflow_id)
    desk.answer(run.workflow_id, Approve())
    run.get_result()
    told = [line for line in waits(caplog, run.workflow_id) if "still" in line]
    assert told == [
        f"Run {run.workflow_id} still waits for a person: May Clerk call send_email? Answer with: "
        f"crewai-dbos inbox (request {request.request_id[:8]})"
    ]
    assert notified == [request.request_id]


@ABOVE_SQL
def test_the_log_does_not_ask_for_what_was_answered_meanwhile(
    serve: Serve, desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(writing(MAIL))
    run = office(Post(), QUICK).start({"who": "Ann"})
    desk.parked(run.workflow_id)
    monkeypatch.setattr(asking, "_told_here", asking._ToldHere())  # as in a process begun anew
    desk.answer(run.workflow_id, Approve())
    run.get_result()
    assert len(waits(caplog, run.workflow_id)) == 1


@ABOVE_SQL
def test_the_log_says_nothing_where_a_prompt_does(
    serve: Serve,
    desk: Desk,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serve(writing(MAIL))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    run = office(Post(), QUICK).start({"who": "Ann"})
    run.get_result()
    assert waits(caplog, run.workflow_id) == []


@ABOVE_SQL
def test_a_notice_that_fails_is_logged(
    serve: Serve, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    serve(writing(MAIL))

    def broken(_: object) -> None:
        raise ConnectionError("no network")

    run = office(Post(), People(approve_tools=["send_email"], notify=broken)).start({"who": "Ann"})
    desk.answer(run.workflow_id, Approve())
    run.get_result()
    assert "notify failed" in caplog.text
    assert "no network" in caplog.text


def test_options_that_can_not_mean_anything() -> None:
    with pytest.raises(DefinitionError, match=r"approve_tools=\['send_email'\]"):
        People(approve_tools="send_email")
    with pytest.raises(DefinitionError, match="on_deadline is one of"):
        People(on_deadline="later")  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="deadline is a time from when"):
        People(deadline=timedelta(0))
    with pytest.raises(DefinitionError, match="'send_mail', but the tools are 'send_email'"):
        office(Post(), People(approve_tools=["send_mail"]))


class Mail(BaseTool):
    name: str = "mail"
    description: str = "Send a mail."

    def _run(self, to: str) -> str:
        raise AssertionError("it is awaited")

    async def _arun(self, to: str) -> str:
        _sent.append(to)
        return f"sent to {to}"


_sent: list[str] = []


class Sending(Flow[dict[str, Any]]):
    @start()
    async def send(self) -> str:
        return str(await Mail().arun(to="ann"))


@pytest.mark.parametrize(("answer", "sent"), [(Reject("not today"), []), (Approve(), ["ann"])])
def test_a_tool_that_a_method_awaits(
    answer: Answer, sent: list[str], serve: Serve, desk: Desk
) -> None:
    serve()
    _sent.clear()
    people = People(approve_tools=["mail"], linger=0.1)
    run = DBOSFlow(flow_name=unique("sending"), orig_flow=Sending, people=people).start()
    assert desk.next(run.workflow_id).question.arguments == {"to": "ann"}
    desk.parked(run.workflow_id)
    desk.answer(run.workflow_id, answer)
    assert ("sent to ann" if sent else "not today") in run.get_result()
    assert _sent == sent
