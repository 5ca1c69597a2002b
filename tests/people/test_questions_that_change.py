"""An answer counts for what was asked, and for nothing else; silence is none."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from crewai.flow.flow import Flow, start
from crewai.hooks import (
    ToolCallHookContext,
    register_before_tool_call_hook,
    unregister_before_tool_call_hook,
)
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID

import crewai_dbos
from crewai_dbos import DBOSFlow, People, ask, ask_async
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._journal import notes
from crewai_dbos._requests.store import Asked, Store
from crewai_dbos._requests.table import requests
from crewai_dbos.control import Approve, Control, Reject, Reply
from crewai_dbos.errors import OutsideRunError, RequestExpired, RunStoppedError
from crewai_dbos.testing import Reply as Answered
from crewai_dbos.testing import Request, ToolCall, text, tool_calls
from people.conftest import Called, Desk, status, until
from people.office import Post, office, writing
from support.databases import sqlite_here
from support.names import unique
from support.serving import Serve

MAIL = {"to": "ann@example.org", "body": "Hello."}
QUICK = People(approve_tools=["send_email"], linger=0.1)
ABOVE_SQL = sqlite_here("url")

prices: Iterator[int] = itertools.count(100, 800)


class Paying(Flow[dict[str, Any]]):
    @start()
    def pay(self) -> str:
        price = next(prices)
        return f"{ask(f'Pay {price}?')}: paid {price}"


@ABOVE_SQL
def test_a_question_that_is_another_one_when_the_run_is_woken(desk: Desk) -> None:
    flow = DBOSFlow(flow_name=unique("paying"), orig_flow=Paying, people=QUICK)
    run = flow.start()
    first = desk.next(run.workflow_id)
    desk.parked(run.workflow_id)
    desk.control.answer(first.request_id, Reply("yes"), by="ann")
    second = until(
        lambda: next((r for r in desk.control.requests(run_id=run.workflow_id) if r != first), None)
    )
    assert first.question.message != second.question.message
    price = int(second.question.message.removeprefix("Pay ").removesuffix("?"))
    desk.parked(run.workflow_id)
    until(lambda: status(run.workflow_id) == "DELAYED")
    # The next execution asks about a third one; what was said of the second is not used for it.
    assert price > 100
    DBOS.cancel_workflow(run.workflow_id)


@ABOVE_SQL
def test_who_was_asked_is_heeded_whatever_the_policy_says_later(serve: Serve, desk: Desk) -> None:
    serve(writing(MAIL))
    post, wanted = Post(), [True]
    people = People(approve_tools=lambda _: wanted[0], linger=0.1)
    run = office(post, people).start({"who": "Ann"})
    desk.parked(run.workflow_id)
    wanted[0] = False
    desk.answer(run.workflow_id, Reject("never"))
    assert "never" in run.get_result().raw
    assert post.sent == []


@ABOVE_SQL
def test_an_edited_call_is_not_taken_for_an_equal_one(serve: Serve, desk: Desk) -> None:
    first, second = {"to": "bob", "body": "x"}, {"to": "ann", "body": "x"}

    def script(request: Request) -> Answered:
        if not request.tool_results:
            return tool_calls(ToolCall("send_email", first), ToolCall("send_email", second))
        return text(" | ".join(result for _, result in request.tool_results))

    serve(script)
    post = Post()
    run = office(post, QUICK).start({"who": "all"})

    def asked_about(to: str) -> Any:
        open_ones = desk.control.requests(run_id=run.workflow_id)
        return next((r for r in open_ones if r.question.arguments["to"] == to), None)

    # Whether crewAI calls them side by side or one after the other.
    bob = until(lambda: asked_about("bob") or asked_about("ann"))
    if asked_about("ann"):
        desk.control.answer(asked_about("ann").request_id, Approve(arguments={"to": "bob"}))
        bob = until(lambda: asked_about("bob"))
        until(lambda: len(post.sent) == 1)
        desk.parked(run.workflow_id)
        desk.control.answer(bob.request_id, Reject("not him"))
    else:
        desk.control.answer(bob.request_id, Reject("not him"))
        ann = until(lambda: asked_about("ann"))
        desk.parked(run.workflow_id)
        desk.control.answer(ann.request_id, Approve(arguments={"to": "bob"}))
    assert "not him" in run.get_result().raw
    assert [mail["to"] for mail in post.sent] == ["bob"]


@ABOVE_SQL
def test_a_gate_stays_shut_when_nobody_answers(serve: Serve) -> None:
    def gate(context: ToolCallHookContext) -> bool | None:
        said = context.request_human_input("Send it?")
        return None if said == "yes" else False

    register_before_tool_call_hook(gate)
    try:
        serve(writing(MAIL))
        post = Post()
        office(post, People(deadline=timedelta(seconds=1))).kickoff({"who": "Ann"})
        assert post.sent == []
    finally:
        unregister_before_tool_call_hook(gate)


@ABOVE_SQL
def test_a_tool_by_the_name_that_models_know(serve: Serve, desk: Desk) -> None:
    from crewai import Agent, Crew, Task

    from crewai_dbos import DBOSCrew

    sent: list[str] = []

    @tool("Send Email")
    def send(to: str) -> str:
        """Send an email."""
        sent.append(to)
        return to

    def script(request: Request) -> Answered:
        if not request.tool_results:
            return tool_calls(ToolCall("send_email", {"to": "bob"}))
        return text("done")

    serve(script)
    clerk = Agent(role="Clerk", goal="g", backstory="b", llm="gpt-4o-mini", tools=[send])
    crew = DBOSCrew(
        crew_name=unique("spelled"),
        orig_crew=Crew(
            agents=[clerk], tasks=[Task(description="d", expected_output="e", agent=clerk)]
        ),
        people=QUICK,
    )
    run = crew.start()
    desk.answer(run.workflow_id, Reject("no"))
    run.get_result()
    assert sent == []


@ABOVE_SQL
def test_nothing_is_called_unasked_where_nobody_can_be_asked(serve: Serve) -> None:
    serve(writing(MAIL))
    post = Post()
    crew = office(post, QUICK)

    @DBOS.step()
    def step() -> None:
        crew.kickoff({"who": "Ann"})

    @DBOS.workflow()
    def work() -> None:
        step()

    with pytest.raises(OutsideRunError, match="its tools are to be approved"):
        work()
    assert post.sent == []


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Makes a request of the next question only when it is set."""
    gate, ask_at_once = threading.Event(), Store.ask

    def ask_later(self: Store, *args: Any, **options: Any) -> Any:
        gate.wait(30)
        return ask_at_once(self, *args, **options)

    monkeypatch.setattr(Store, "ask", ask_later)
    return gate


@ABOVE_SQL
def test_a_task_that_is_cancelled_while_its_request_is_made(
    slow: threading.Event, desk: Desk
) -> None:
    class Hasty(Flow[dict[str, Any]]):
        @start()
        async def method(self) -> str:
            asking = asyncio.create_task(ask_async("Anyone?"))
            await asyncio.sleep(0.3)
            asking.cancel()
            slow.set()
            await asyncio.wait([asking])
            return f"cancelled {asking.cancelled()}"

    run_id = unique("hasty")
    flow = DBOSFlow(flow_name=unique("hasty_flow"), orig_flow=Hasty, people=QUICK)
    with SetWorkflowID(run_id):
        assert flow.kickoff() == "cancelled True"
    requests = desk.control.requests(run_id=run_id, only_open=False)
    assert [request.state for request in requests] in (["withdrawn"], [])


def test_one_that_is_asked_again_can_be_answered_as_long_as_at_first(desk: Desk) -> None:
    """It was withdrawn as the program was stopped, hours ago."""
    database, run_id = launched_database(), unique("run")
    store = Store(database)

    def asked() -> Asked:
        return store.ask(run_id, "ask#1", "question", {"message": "Well?"}, seconds=3600)

    first = asked()
    table = requests(database.schema)
    with database.writing() as connection:
        ten_hours = 36_000_000
        connection.execute(
            sa.update(table)
            .where(table.c.run_id == run_id)
            .values(
                state="withdrawn",
                created_ms=table.c.created_ms - ten_hours,
                deadline_ms=table.c.deadline_ms - ten_hours,
            )
        )
    again = asked()
    assert (again.request_id, again.notify) == (first.request_id, True)
    assert again.created_ms >= first.created_ms
    with database.writing() as connection:
        store.renew(connection, run_id)
    renewed = asked()
    assert renewed.deadline_ms is not None
    assert renewed.deadline_ms - renewed.created_ms == 3_600_000


def test_an_execution_that_has_lost_its_run_takes_nothing_back(serve: Serve, desk: Desk) -> None:
    """It stood still, and another one has the run, which still waits for its answer."""
    serve(writing(MAIL))
    post, database = Post(), launched_database()
    crew = office(post, People(approve_tools=["send_email"], linger=60))
    run = crew.start({"who": "Ann"})
    request = desk.next(run.workflow_id)
    store = Store(database)
    store.withdraw(request.request_id, "an earlier execution")
    lost = RunStoppedError("It had a reason.")
    notes.stop(run.workflow_id, "an earlier execution", lost)
    assert desk.control.request(request.request_id).state == "open"
    assert desk.control.run(run.workflow_id).state == "waiting"
    desk.control.answer(request.request_id, Approve())
    run.get_result()
    assert len(post.sent) == 1


def test_a_request_that_was_withdrawn_is_no_deadline_that_has_passed(
    serve: Serve, desk: Desk
) -> None:
    serve(writing(MAIL))
    post, database = Post(), launched_database()
    people = People(
        approve_tools=["send_email"],
        deadline=timedelta(days=3),
        on_deadline="approve",
        linger=60,
    )
    crew = office(post, people)
    run = crew.start({"who": "Ann"})
    request = desk.next(run.workflow_id)
    table = requests(database.schema)
    with database.writing() as connection:  # as an earlier release does for one that stood still
        its_row = table.c.request_id == request.request_id
        connection.execute(sa.update(table).where(its_row).values(state="withdrawn", created_ms=1))
    again = until(
        lambda: next(
            (each for each in desk.control.requests() if each.run_id == run.workflow_id), None
        )
    )
    assert again.request_id == request.request_id
    assert post.sent == []
    desk.control.answer(request.request_id, Reject("not now"))
    assert "not now" in run.get_result().raw
    assert post.sent == []


posts: list[str] = []


def post_slowly() -> str:
    posts.append("begun")
    time.sleep(1.5)
    posts.append("done")
    return "posted"


@ABOVE_SQL
def test_work_beside_a_wait_is_not_cut_short(desk: Desk) -> None:
    class Beside(Flow[dict[str, Any]]):
        @start()
        async def method(self) -> str:
            async def work() -> str:
                return await asyncio.to_thread(post_slowly)

            said, posted = await asyncio.gather(ask_async("Well?"), work())
            return f"{said} {posted}"

    posts.clear()
    run_id = unique("beside")
    flow = DBOSFlow(flow_name=unique("beside_flow"), orig_flow=Beside, people=QUICK)

    def kickoff() -> Any:
        with SetWorkflowID(run_id):
            return flow.kickoff()

    called = Called(kickoff)
    request = desk.next(run_id)
    until(lambda: "done" in posts)
    desk.control.answer(request.request_id, Reply("fine"))
    assert called.result() == "fine posted"
    assert posts == ["begun", "done"]


@ABOVE_SQL
def test_a_failure_of_the_database_is_no_answer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asking(Flow[dict[str, Any]]):
        @start()
        def method(self) -> str:
            return ask("Well?")

    flow = DBOSFlow(flow_name=unique("asking_flow"), orig_flow=Asking, people=QUICK)
    with monkeypatch.context() as broken:

        def refused(*_: Any, **__: Any) -> Any:
            raise sa.exc.ProgrammingError("INSERT", {}, Exception("permission denied"))

        broken.setattr(Store, "ask", refused)
        run = flow.start()
        with pytest.raises(RunStoppedError, match="could not ask a person"):
            run.get_result()
    DBOS.resume_workflow(run.workflow_id)
    desk.answer(run.workflow_id, Reply("fine"))
    assert flow.retrieve(run.workflow_id).get_result() == "fine"


@ABOVE_SQL
def test_silence_is_no_review_and_the_work_is_not_done_again(
    serve: Serve, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda _: text("The draft."))
    people = People(deadline=timedelta(seconds=1), linger=0.1)
    crew = office(Post(), people, human_input=True)
    run = crew.start({"who": "Ann"})
    with pytest.raises(RequestExpired, match="Nobody has answered in time"):
        run.get_result()
    assert len(server.requests) == 1
    monkeypatch.setattr(People, "seconds", None)  # from now on there is no deadline to miss
    DBOS.resume_workflow(run.workflow_id)
    desk.answer(run.workflow_id, Approve())
    assert crew.retrieve(run.workflow_id).get_result().raw == "The draft."
    assert len(server.requests) == 1


@ABOVE_SQL
def test_a_redacted_answer_is_kept_redacted(desk: Desk) -> None:
    class Asking(Flow[dict[str, Any]]):
        @start()
        def method(self) -> str:
            return ask("Which card?")

    def redact(given: str) -> str:
        return given.replace("4711", "####")

    flow = DBOSFlow(
        flow_name=unique("redacted_flow"), orig_flow=Asking, people=QUICK, redact=redact
    )
    run = flow.start()
    request = desk.answer(run.workflow_id, Reply("card 4711"))
    run.get_result()
    kept = desk.control.request(request.request_id)
    assert (kept.state, kept.answer["value"]) == ("used", "card ####")


def test_a_database_that_is_not_dbos_s(tmp_path: Any) -> None:
    (tmp_path / "other.sqlite").touch()
    with pytest.raises(crewai_dbos.DefinitionError, match="no database of DBOS's"):
        Control(f"sqlite:///{tmp_path}/other.sqlite")
    with pytest.raises(crewai_dbos.DefinitionError, match="can't be reached"):
        Control("postgresql://nobody:nothing@127.0.0.1:1/none")
