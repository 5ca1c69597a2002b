"""Runs that go on: with time, on their queue, and with time for who is asked."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from crewai import Crew
from crewai.flow.flow import Flow, start
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID, SetWorkflowTimeout

from crewai_dbos import DBOSCrew, DBOSFlow, People, step
from crewai_dbos._stored import names
from crewai_dbos.control import Approve, Control
from crewai_dbos.errors import (
    DeadlinePassedError,
    DefinitionError,
    DriftError,
    RunAbortedError,
    RunCancelledError,
    RunNotFoundError,
    RunStateError,
)
from crewai_dbos.testing import ToolCall, hang, text, tool_calls
from people.conftest import Desk, status, until
from people.office import Post, office, writing
from support.controlling import crew_of, ordinary
from support.databases import both_here, some_here
from support.names import unique
from support.serving import Serve

BOTH = both_here("url")


@BOTH
def test_a_run_whose_time_was_up_gets_time(control: Control, serve: Serve) -> None:
    held = hang(text("At last."))
    server = serve(lambda request: held)
    crew, run_id = crew_of(), unique("run")
    with SetWorkflowID(run_id), SetWorkflowTimeout(0.3), pytest.raises(DeadlinePassedError):
        crew.kickoff({"topic": "otters"})
    control.resume(run_id)
    held.wait_until_held(2)
    time.sleep(0.6)  # twice what it began with
    assert status(run_id) == "PENDING"
    held.release()
    assert crew.retrieve(run_id).get_result().raw == "At last."
    assert len(server.requests) == 2


def test_a_time_that_is_given_counts_from_when_it_goes_on(control: Control, serve: Serve) -> None:
    held = hang(text("Late."))
    serve(lambda request: held)
    crew = crew_of()
    run = crew.start({"topic": "otters"})
    held.wait_until_held()
    control.cancel(run.workflow_id)
    control.resume(run.workflow_id, timeout=0.3)
    with pytest.raises(DeadlinePassedError):
        crew.retrieve(run.workflow_id).get_result()
    held.release()
    control.resume(run.workflow_id)
    assert run.get_result().raw == "Late."


def test_what_was_said_of_the_cancel_is_taken_back(control: Control, serve: Serve) -> None:
    held = hang(text("Well."))
    serve(lambda request: held)
    crew = crew_of()
    run = crew.start({"topic": "otters"})
    held.wait_until_held()
    DBOS.update_workflow_attributes(run.workflow_id, {"own": 1}, merge=True)
    control.cancel(run.workflow_id, by="ann", reason="Not now.")
    with pytest.raises(RunCancelledError):
        run.get_result()
    control.resume(run.workflow_id)
    attributes = run.get_status().attributes
    assert attributes is not None
    assert attributes.keys() == {"own", names.RUN_ATTRIBUTE}
    held.release()
    assert run.get_result().raw == "Well."
    for _ in range(2):
        with pytest.raises(RunStateError, match="is done"):
            control.resume(run.workflow_id)
    with pytest.raises(RunStateError, match="has ended"):
        control.cancel(run.workflow_id)


@BOTH
def test_a_run_goes_back_to_its_queue(control: Control, serve: Serve) -> None:
    held = hang(text("Well."))
    serve(lambda request: held)
    name = unique("queue")
    DBOS.register_queue(name, polling_interval_sec=0.05)
    run = crew_of().start({"topic": "otters"}, queue=name)
    held.wait_until_held()
    control.cancel(run.workflow_id)
    assert run.get_status().queue_name is None
    control.resume(run.workflow_id)
    assert run.get_status().queue_name == name
    held.release()
    assert run.get_result().raw == "Well."


@BOTH
def test_what_it_asks_can_be_answered_for_as_long_again(
    control: Control, url: str, serve: Serve
) -> None:
    serve(writing({"to": "ann@example.org", "body": "Hello."}))
    post, desk = Post(), Desk(control)
    people = People(
        approve_tools=["send_email"],
        deadline=timedelta(seconds=2),
        on_deadline="reject",
        linger=0.1,
    )
    run = office(post, people).start({"who": "Ann"})
    first = desk.next(run.workflow_id)
    desk.parked(run.workflow_id)
    control.cancel(run.workflow_id)
    assert control.requests(run_id=run.workflow_id) == []
    assert first.deadline is not None
    time.sleep(max(0.0, first.deadline.timestamp() - time.time()) + 0.2)
    control.resume(run.workflow_id)
    again = control.request(first.request_id)
    assert again.state == "open"
    assert again.deadline is not None
    assert again.deadline - again.created == first.deadline - first.created
    control.answer(again.request_id, Approve())
    run.get_result()
    assert len(post.sent) == 1


def test_what_can_not_go_on_is_said(control: Control, serve: Serve) -> None:
    held = hang(text("Well."))
    serve(lambda request: held)
    with pytest.raises(RunNotFoundError):
        control.resume("nobody's")
    with pytest.raises(RunNotFoundError):
        control.cancel("nobody's")
    run = crew_of().start({"topic": "otters"})
    held.wait_until_held()
    with pytest.raises(RunStateError, match="carried out by"):
        control.resume(run.workflow_id)
    with pytest.raises(DefinitionError, match="seconds"):
        control.resume(run.workflow_id, timeout=0)
    held.release()
    assert run.get_result().raw == "Well."


def test_a_run_that_asks_is_not_resumed(control: Control, serve: Serve) -> None:
    serve(writing({"to": "ann@example.org", "body": "Hello."}))
    desk = Desk(control)
    run = office(Post(), People(approve_tools=["send_email"], linger=0.1)).start({"who": "Ann"})
    desk.parked(run.workflow_id)
    with pytest.raises(RunStateError, match="crewai-dbos inbox"):
        control.resume(run.workflow_id)
    control.cancel(run.workflow_id, by="bob")
    with pytest.raises(RunCancelledError, match="by bob"):
        run.get_result()
    until(lambda: status(run.workflow_id) == "CANCELLED")


class One(Flow[dict[str, Any]]):
    @start()
    def one(self) -> str:
        return step(lambda: "one")


class Other(One):
    @start()
    def another(self) -> str:
        return step(lambda: "another")


@pytest.mark.parametrize(
    ("kind", "is_async"),
    some_here(product(["crew", "flow"], [False, True]), [("crew", False), ("flow", True)]),
)
def test_a_stopped_run_that_is_kicked_off_again_says_why(
    kind: str, is_async: bool, serve: Serve, url: str
) -> None:
    """What has changed, as the run itself said, and not that it was cancelled."""
    serve()
    changed: list[bool] = []

    def build_crew() -> Any:
        crew = ordinary(tasks=2)
        return Crew(agents=crew.agents, tasks=crew.tasks[::-1]) if changed else crew

    made: Any
    if kind == "crew":
        made = DBOSCrew(crew_name=unique("crew"), orig_crew=build_crew)
    else:
        made = DBOSFlow(flow_name=unique("flow"), orig_flow=lambda: Other() if changed else One())

    def kickoff(run_id: str) -> Any:
        async def main() -> Any:
            with SetWorkflowID(run_id):
                return await (made.akickoff if kind == "crew" else made.kickoff_async)(
                    {"topic": "otters"}
                )

        if is_async:
            return asyncio.run(main())
        with SetWorkflowID(run_id):
            return made.kickoff({"topic": "otters"})

    run_id = unique("run")
    kickoff(run_id)
    changed.append(True)
    last = DBOS.list_workflow_steps(run_id)[-1]["function_id"]
    fork = DBOS.fork_workflow(run_id, last).get_workflow_id()
    until(lambda: status(fork) == "CANCELLED")
    with pytest.raises(DriftError) as caught:
        kickoff(fork)
    assert f"crewai-dbos runs resume {fork}" in str(caught.value)
    changed.clear()
    DBOS.resume_workflow(fork)
    assert kickoff(fork)


def test_a_run_that_has_stopped_goes_back_to_its_queue(control: Control, serve: Serve) -> None:
    """DBOS forgets the queue of a run that it cancels."""
    serve(
        lambda request: text("Well.") if request.tool_results else tool_calls(ToolCall("leave", {}))
    )
    name = unique("queue")
    DBOS.register_queue(name, polling_interval_sec=0.05)
    LEAVES.append(SystemExit(3))
    run = crew_of(leave).start({"topic": "otters"}, queue=name)
    with pytest.raises(RunAbortedError):
        run.get_result()
    LEAVES.clear()
    control.resume(run.workflow_id)
    assert run.get_status().queue_name == name
    assert run.get_result().raw == "Well."


LEAVES: list[BaseException] = []


@tool
def leave() -> str:
    """Leave."""
    for error in LEAVES:
        raise error
    return "still here"
