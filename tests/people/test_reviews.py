"""`human_input=True`, `@human_feedback`, a flow's `ask` and `crewai_dbos.ask` are requests, too."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, listen, start
from crewai.flow.human_feedback import human_feedback
from crewai.hooks import (
    ToolCallHookContext,
    register_before_tool_call_hook,
    unregister_before_tool_call_hook,
)
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel, field_validator
from typer.testing import CliRunner

from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow, People, StepConfig, ask, ask_async
from crewai_dbos.cli import app
from crewai_dbos.control import Approve, Control, Feedback, Reply
from crewai_dbos.errors import EventLoopError, InvalidAnswer, OutsideRunError, RequestExpired
from crewai_dbos.testing import Reply as Answered
from crewai_dbos.testing import Request, ToolCall, text, tool_calls
from people.conftest import Called, Desk, status, until
from people.office import Post, office, writing
from support.databases import sqlite_here
from support.names import unique
from support.serving import Serve

pytestmark = sqlite_here("url")

QUICK = People(linger=0.1)


def drafting(request: Request) -> Answered:
    """A model whose answer says which draft it is, and what was to be changed."""
    wishes = [word for word in ("Shorter", "Friendlier") if word in request.last_user_text]
    return text(f"draft {request.assistant_turns + 1}: {' '.join(wishes)}")


def test_a_result_is_reviewed_until_it_is_good(serve: Serve, desk: Desk) -> None:
    server = serve(drafting)
    run = office(Post(), QUICK, human_input=True).start({"who": "Ann"})
    first = desk.answer(run.workflow_id, Feedback("Shorter, please"), kind="review")
    assert first.question.output.startswith("draft 1")
    assert (first.question.agent, first.question.task) == ("Clerk", "Write to Ann.")
    desk.parked(run.workflow_id)
    second = desk.answer(run.workflow_id, Feedback("Friendlier"), kind="review")
    assert "Shorter" in second.question.output
    third = desk.answer(run.workflow_id, Approve(), kind="review")
    assert run.get_result().raw == third.question.output
    assert len({first.request_id, second.request_id, third.request_id}) == 3
    assert len(server.requests) == 3


def test_an_async_crew_is_reviewed_too(serve: Serve, desk: Desk) -> None:
    server = serve(drafting)
    crew, run_id = office(Post(), QUICK, human_input=True), unique("areview")

    def kickoff() -> Any:
        with SetWorkflowID(run_id):
            return asyncio.run(crew.akickoff({"who": "Ann"}))

    called = Called(kickoff)
    desk.answer(run_id, Feedback("Shorter"))
    desk.parked(run_id)
    desk.answer(run_id, Approve())
    assert "Shorter" in called.result().raw
    assert len(server.requests) == 2


class Publishing(Flow[dict[str, Any]]):
    @start()
    @human_feedback(message="Publish?", metadata={"channel": "blog"})
    def draft(self) -> str:
        self.state["drafts"] = self.state.get("drafts", 0) + 1
        return "The draft."

    @listen(draft)
    def publish(self) -> str:
        title = self.ask("Which title?", metadata={"for": "ann"})
        again = self.ask("And a subtitle?", timeout=1)
        said = self.last_human_feedback.feedback
        return f"{title}/{again}/{said}/{self.state['drafts']}"


def test_a_flow_asks_for_feedback_and_for_answers(serve: Serve, desk: Desk) -> None:
    flow = DBOSFlow(flow_name=unique("publishing"), orig_flow=Publishing, people=QUICK)
    run = flow.start()
    request = desk.next(run.workflow_id, kind="feedback")
    assert (request.question.message, request.question.output) == ("Publish?", "The draft.")
    assert request.question.metadata == {"channel": "blog"}
    desk.parked(run.workflow_id)
    desk.answer(run.workflow_id, Feedback("yes, do"))
    request = desk.next(run.workflow_id, kind="question")
    assert (request.question.message, request.question.metadata) == ("Which title?", {"for": "ann"})
    desk.parked(run.workflow_id)
    desk.answer(run.workflow_id, Reply("Otters"))
    # Nobody answers the last one: crewAI's timeout gives None, also where the run was a row then.
    assert run.get_result() == "Otters/None/yes, do/1"


class Deciding(Flow[dict[str, Any]]):
    @start()
    @human_feedback(
        message="All right?",
        emit=["approved", "rejected"],
        llm="gpt-4o-mini",
        default_outcome="rejected",
    )
    def draft(self) -> str:
        return "The draft."

    @listen("approved")
    def send(self) -> str:
        return "sent"

    @listen("rejected")
    def drop(self) -> str:
        return "dropped"


def test_what_decides_on_an_outcome_is_said_and_not_approved(
    serve: Serve, desk: Desk, url: str
) -> None:
    """Approve would say nothing, of which crewAI makes the default outcome."""
    serve(lambda _: text("approved"))
    flow = DBOSFlow(flow_name=unique("deciding"), orig_flow=Deciding, people=QUICK)
    run = flow.start()
    request = desk.next(run.workflow_id, kind="feedback")
    with pytest.raises(InvalidAnswer, match="one of approved, rejected"):
        desk.control.answer(request.request_id, Approve())
    command = ["inbox", "approve", request.request_id, "--db-url", url]
    refused = CliRunner().invoke(app, command)
    assert (refused.exit_code, "Feedback('approved')" in refused.output) == (1, True)
    desk.answer(run.workflow_id, Feedback("Yes, send it."))
    assert run.get_result() == "sent"


class Account(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def exists(cls, number: int) -> int:
        if number > 9999:
            raise ValueError("there is no such account")
        return number


def test_a_tool_asks_and_gets_what_fits_the_schema(
    serve: Serve, desk: Desk, control: Control
) -> None:
    @tool
    def book(amount: int) -> str:
        """Book an amount."""
        account = ask(f"Which account for {amount}?", schema=Account, audience="books")
        assert isinstance(account, Account)
        how = ask("How?", outcomes=["cash", "card"])
        return f"{amount} on {account.number} by {how}"

    def script(request: Request) -> Answered:
        if not request.tool_results:
            return tool_calls(ToolCall("book", {"amount": 5}))
        return text(request.tool_results[0][1])

    serve(script)
    agent = DBOSAgent(
        agent_name=unique("clerk"),
        orig_agent=Agent(role="Clerk", goal="g", backstory="b", llm="gpt-4o-mini", tools=[book]),
        tool_step_config=StepConfig(),
        people=QUICK,
    )
    run_id = unique("booking")

    def book_five() -> Any:
        with SetWorkflowID(run_id):
            return agent.kickoff("Book 5").raw

    called = Called(book_five)
    request = desk.next(run_id)
    assert (request.audience, request.question.message) == ("books", "Which account for 5?")
    with pytest.raises(InvalidAnswer, match="number: 'x' is not of type 'integer'"):
        control.answer(request.request_id, Reply({"number": "x"}))
    control.answer(request.request_id, Reply({"number": 123456}))
    # What only the model itself knows is asked once more, with the reason.
    again = until(lambda: _newer(desk, run_id, request.request_id))
    assert "there is no such account" in again.question.message
    control.answer(again.request_id, Reply({"number": 4711}))
    last = until(lambda: _newer(desk, run_id, again.request_id))
    desk.parked(run_id)
    with pytest.raises(InvalidAnswer, match="is not one of"):
        control.answer(last.request_id, Reply("cheque"))
    control.answer(last.request_id, Reply("card"))
    assert called.result() == "5 on 4711 by card"


def _newer(desk: Desk, run_id: str, before: str) -> Any:
    open_ones = desk.control.requests(run_id=run_id)
    return next((each for each in open_ones if each.request_id != before), None)


class Branches(Flow[dict[str, Any]]):
    @start()
    def left(self) -> None:
        self.state["left"] = ask("Left?")

    @start()
    async def right(self) -> None:
        self.state["right"] = await ask_async("Right?")


def test_two_branches_are_answered_in_any_order(url: str, desk: Desk) -> None:
    flow = DBOSFlow(flow_name=unique("branches"), orig_flow=Branches, people=QUICK)
    run = flow.start()

    def message(text: str) -> str:
        found = {
            request.question.message: request
            for request in desk.control.requests(run_id=run.workflow_id)
        }
        return found[text].request_id if text in found else ""

    right = until(lambda: message("Right?"))
    until(lambda: message("Left?"))
    desk.parked(run.workflow_id)
    desk.control.answer(right, Reply("r"), by="ann")
    # Woken, it takes the one and waits for the other.
    until(lambda: desk.control.request(right).state == "used")
    desk.parked(run.workflow_id)
    desk.control.answer(message("Left?"), Reply("l"), by="ann")
    run.get_result()
    state = DBOS.list_workflow_steps(run.workflow_id)
    assert [s["function_name"].rpartition("/")[2] for s in state].count("ask#1") == 2
    assert flow.retrieve(run.workflow_id).get_status().status == "SUCCESS"


def test_a_deadline_of_a_question(url: str) -> None:
    class Hurried(Flow[dict[str, Any]]):
        @start()
        def hurried(self) -> str:
            second = timedelta(seconds=1)
            kept = ask("Quick?", deadline=second, default="never mind")
            try:
                ask("Quicker?", deadline=second)
            except RequestExpired as error:
                return f"{kept}: {error}"
            return "answered"

    flow = DBOSFlow(flow_name=unique("hurried"), orig_flow=Hurried, people=QUICK)
    assert flow.kickoff() == "never mind: Nobody has answered in time: Quicker?"


@DBOS.workflow()
def own_workflow(question: str) -> str:
    return f"{ask(question)}!"


def test_a_workflow_of_the_user_s_own_waits_and_its_handle_is_sound(url: str, desk: Desk) -> None:
    run_id = unique("own")
    with SetWorkflowID(run_id):
        handle = DBOS.start_workflow(own_workflow, "Well?")
    desk.answer(run_id, Reply("fine"))
    assert handle.get_result() == "fine!"


def test_where_nobody_can_be_asked(url: str) -> None:
    with pytest.raises(OutsideRunError, match="works inside a durable run"):
        ask("Anyone?")

    async def inside() -> None:
        ask("Anyone?")

    with pytest.raises(EventLoopError, match="await ask_async"):
        asyncio.run(inside())

    @DBOS.step()
    def step() -> None:
        ask("Anyone?")

    class InAStep(Flow[dict[str, Any]]):
        @start()
        def method(self) -> None:
            step()

    with pytest.raises(OutsideRunError, match="inside a recorded step"):
        DBOSFlow(flow_name=unique("in_a_step"), orig_flow=InAStep).kickoff()


def test_a_task_that_is_given_up_withdraws_its_question(url: str, desk: Desk) -> None:
    class Impatient(Flow[dict[str, Any]]):
        @start()
        async def method(self) -> str:
            try:
                return str(await asyncio.wait_for(ask_async("Anyone?"), 1.0))
            except asyncio.TimeoutError:
                return "nobody"

    run_id = unique("impatient")
    flow = DBOSFlow(flow_name=unique("impatient_flow"), orig_flow=Impatient)
    with SetWorkflowID(run_id):
        assert flow.kickoff() == "nobody"
    (request,) = desk.control.requests(run_id=run_id, only_open=False)
    assert request.state == "withdrawn"
    assert status(run_id) == "SUCCESS"


def test_the_terminal_of_a_first_try(
    serve: Serve, url: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(drafting)
    said = iter(["Shorter", ""])
    monkeypatch.setattr("builtins.input", lambda *_: next(said))
    run_id = unique("terminal")
    crew = office(Post(), human_input=True)
    with SetWorkflowID(run_id):
        assert "Shorter" in crew.kickoff({"who": "Ann"}).raw
    requests = desk.control.requests(run_id=run_id, only_open=False)
    assert [request.state for request in requests] == ["used", "used"]
    assert all(request.answered_by for request in requests)


def test_a_task_of_an_agent_alone(serve: Serve, desk: Desk) -> None:
    serve(drafting)
    agent = DBOSAgent(
        agent_name=unique("reviewed"),
        orig_agent=Agent(role="Clerk", goal="g", backstory="b", llm="gpt-4o-mini"),
        people=QUICK,
    )
    run_id = unique("reviewed_run")

    def work() -> Any:
        task = Task(description="Write.", expected_output="x", human_input=True)
        with SetWorkflowID(run_id):
            return agent.execute_task(task)

    called = Called(work)
    desk.answer(run_id, Approve(), kind="review")
    assert str(called.result()).startswith("draft 1")


def test_what_a_hook_asks(serve: Serve, desk: Desk) -> None:
    refused = "Not this one"

    def gate(context: ToolCallHookContext) -> bool | None:
        if context.tool_name != "send_email":
            return None
        said = context.request_human_input("Send it?")
        return None if said == "yes" else False

    register_before_tool_call_hook(gate)
    try:
        serve(writing({"to": "ann", "body": "a"}, {"to": "bob", "body": "b"}))
        post = Post()
        run = office(post, QUICK).start({"who": "all"})
        first = desk.answer(run.workflow_id, Reply("yes"))
        assert (first.kind, first.question.message) == ("question", "Send it?")
        desk.parked(run.workflow_id)
        desk.answer(run.workflow_id, Reply(refused))
        run.get_result()
        assert [mail["to"] for mail in post.sent] == ["ann"]
    finally:
        unregister_before_tool_call_hook(gate)


def test_a_member_s_own_people_count_before_the_crew_s(serve: Serve, desk: Desk) -> None:
    serve(writing({"to": "ann", "body": "a"}))
    post = Post()
    clerk = DBOSAgent(
        agent_name=unique("member"),
        orig_agent=Agent(
            role="Clerk", goal="g", backstory="b", llm="gpt-4o-mini", tools=post.tools()
        ),
        tool_step_config=StepConfig(),
        people=People(approve_tools=["send_email"], audience="members", linger=0.1),
    )
    task = Task(description="Write.", expected_output="x", agent=clerk)
    crew = DBOSCrew(
        crew_name=unique("with_member"),
        orig_crew=Crew(agents=[clerk], tasks=[task]),
        people=People(audience="crew"),
    )
    run = crew.start()
    assert desk.answer(run.workflow_id, Approve()).audience == "members"
    run.get_result()
    assert len(post.sent) == 1


def test_what_is_shown_is_without_secrets_and_a_value_left_alone_stays_whole(
    serve: Serve, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POST_API_KEY", "pk-4711-4712-4713-4714")
    serve(writing({"to": "ann", "body": "with pk-4711-4712-4713-4714"}))
    post = Post()
    crew = office(post, People(approve_tools=["send_email"], linger=0.1))
    run = crew.start({"who": "Ann"})
    request = desk.next(run.workflow_id)
    assert request.question.arguments["body"] == "with ***"
    edited = {**request.question.arguments, "to": "bob"}
    desk.answer(run.workflow_id, Approve(arguments=edited))
    run.get_result()
    assert post.sent[0] == {"to": "bob", "body": "with pk-4711-4712-4713-4714", "copies": 1}
