"""Lists of runs: each says what it is a run of, whoever has begun it, and pages hold together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from crewai import Task
from crewai.flow.flow import Flow, start
from dbos import (
    DBOS,
    DBOSClient,
    SetWorkflowAttributes,
    SetWorkflowID,
    WorkflowSerializationFormat,
)

from control import reading_runs
from control.reading_runs import clerk, crew_of, ended
from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow
from crewai_dbos._stored import names as stored_names
from crewai_dbos.control import Control
from crewai_dbos.errors import DefinitionError, RunNotFoundError
from crewai_dbos.testing import error
from flows.conversation import Desk, replies
from support.databases import both_here
from support.names import unique
from support.serving import Serve

BOTH = both_here("url")

serve = reading_runs.serve


class Quick(Flow):
    @start()
    def only(self) -> str:
        return "done"


def crew() -> DBOSCrew:
    return DBOSCrew(crew_name=unique("crew"), orig_crew=crew_of("work"))


def kinds(control: Control, definition: str) -> list[str]:
    return [run.kind for run in control.runs(definition=definition)]


@pytest.fixture
def everywhere(control: Control, url: str) -> Callable[[str], list[str]]:
    """The kinds of the runs of a definition, as our list and DBOS's own both find them."""

    def found(definition: str) -> list[str]:
        ours = control.runs(definition=definition)
        assert {run.definition for run in ours} <= {definition}
        label = {"definition": definition}
        if url.startswith("postgresql"):
            theirs = DBOS.list_workflows(attributes={stored_names.RUN_ATTRIBUTE: label})
            assert {run.run_id for run in ours} == {each.workflow_id for each in theirs}
        for run in ours:
            (shown,) = DBOS.list_workflows(workflow_ids=[run.run_id])
            told = shown.attributes[stored_names.RUN_ATTRIBUTE]  # type: ignore[index]
            assert told == {**label, "kind": run.kind}
        return [run.kind for run in ours]

    return found


@BOTH
def test_runs_of_a_crew_whichever_way_they_are_begun(
    serve: Serve, everywhere: Callable[[str], list[str]]
) -> None:
    serve()
    durable = crew()
    durable.kickoff()
    DBOS.register_queue("reading", polling_interval_sec=0.05)
    runs = [durable.start(), durable.start(queue="reading")]
    for run in runs:
        run.get_result()
    durable.kickoff_for_each(inputs=[{}, {}])
    assert sorted(everywhere(durable.crew_name)) == ["batch", *["crew"] * 5]


def test_runs_of_a_crew_from_async_code(
    serve: Serve, everywhere: Callable[[str], list[str]]
) -> None:
    serve()
    durable = crew()
    asyncio.run(durable.akickoff())
    assert everywhere(durable.crew_name) == ["crew"]


def test_runs_of_an_agent(serve: Serve, everywhere: Callable[[str], list[str]]) -> None:
    serve()
    agent = DBOSAgent(agent_name=unique("agent"), orig_agent=clerk())
    agent.execute_task(Task(description="Work", expected_output="x"))
    agent.kickoff("Work")
    assert everywhere(agent.agent_name) == ["agent", "agent"]


def test_runs_of_a_flow_and_turns(serve: Serve, everywhere: Callable[[str], list[str]]) -> None:
    serve(replies)
    flow = DBOSFlow(flow_name=unique("flow"), orig_flow=Quick)
    flow.kickoff()
    flow.start().get_result()
    assert everywhere(flow.flow_name) == ["flow", "flow"]
    desk = DBOSFlow(flow_name=unique("desk"), orig_flow=Desk)
    desk.handle_turn("Hello", session_id="s")
    desk.handle_turn("And now?", session_id="s")
    assert everywhere(desk.flow_name) == ["flow", "flow"]


def test_attributes_of_the_users_own_are_kept(serve: Serve) -> None:
    serve()
    durable, run_id = crew(), unique("own")
    with SetWorkflowID(run_id), SetWorkflowAttributes({"customer": "acme"}):
        durable.kickoff()
    (status,) = DBOS.list_workflows(workflow_ids=[run_id])
    assert status.attributes == {
        "customer": "acme",
        "crewai_dbos.run": {"definition": durable.crew_name, "kind": "crew"},
    }


def test_a_run_that_was_stopped_and_goes_on_keeps_its_name(
    serve: Serve, control: Control, everywhere: Callable[[str], list[str]]
) -> None:
    serve()
    tasks = ["work"]
    durable = DBOSCrew(crew_name=unique("changing"), orig_crew=lambda: crew_of(*tasks)())
    run_id = unique("stopped")
    with SetWorkflowID(run_id), SetWorkflowAttributes({"customer": "acme"}):
        durable.kickoff()
    tasks[0] = "another"
    fork = DBOS.fork_workflow(run_id, 4).workflow_id
    ended(fork)
    found = control.run(fork)
    assert (found.state, found.definition) == ("stopped", durable.crew_name)
    assert "another" in (found.reason or "")
    tasks[0] = "work"
    DBOS.resume_workflow(fork).get_result()
    (status,) = DBOS.list_workflows(workflow_ids=[fork])
    assert {"customer", "crewai_dbos.run"} <= set(status.attributes or {})
    assert everywhere(durable.crew_name) == ["crew", "crew"]
    assert control.run(fork).forked_from == run_id


@BOTH
def test_a_run_of_an_earlier_release_or_of_another_program(
    serve: Serve, control: Control, url: str, everywhere: Callable[[str], list[str]]
) -> None:
    serve()
    durable, run_id = crew(), unique("old")
    with SetWorkflowID(run_id):
        durable.kickoff()
    DBOS.update_workflow_attributes(run_id, None)
    assert control.run(run_id).definition == durable.crew_name
    assert kinds(control, durable.crew_name) == ["crew"]
    # One that another program asks for says it as soon as it begins.
    DBOS.register_queue("reading", polling_interval_sec=0.05)
    with_client = DBOSClient(system_database_url=url)
    handle: Any = with_client.enqueue(
        {
            "queue_name": "reading",
            "workflow_name": "crewai_dbos.crew",
            "serialization_type": WorkflowSerializationFormat.PORTABLE,
            "attributes": {"customer": "acme"},
        },
        {"v": 2, "crew": durable.crew_name, "inputs": {"crew": "no name"}},
    )
    ended(handle.workflow_id)
    with_client.destroy()
    (status,) = DBOS.list_workflows(workflow_ids=[handle.workflow_id])
    assert status.attributes == {
        "customer": "acme",
        "crewai_dbos.run": {"definition": durable.crew_name, "kind": "crew"},
    }
    assert kinds(control, durable.crew_name) == ["crew", "crew"]
    # What stands somewhere in an input is no name.
    assert kinds(control, "no name") == []
    DBOS.fork_workflow(run_id, 1).get_result()
    assert kinds(control, durable.crew_name) == ["crew"] * 3


@DBOS.workflow(name="reading.own")
def own(crew_name: str) -> str:
    return str(_CREWS[crew_name].kickoff().raw)


_CREWS: dict[str, DBOSCrew] = {}


def test_a_workflow_of_the_users_own(serve: Serve, control: Control) -> None:
    serve()
    durable = crew()
    _CREWS[durable.crew_name] = durable
    run_id = unique("mine")
    with SetWorkflowID(run_id):
        own(durable.crew_name)
    assert kinds(control, durable.crew_name) == []
    found = control.run(run_id)
    assert (found.kind, found.definition, found.state) == ("workflow", None, "done")
    assert found.tokens.requests == 1
    assert run_id in [run.run_id for run in control.runs(kind="workflow")]
    assert run_id not in [run.run_id for run in control.runs(kind="crew")]


@BOTH
def test_pages_hold_together_where_times_are_equal(
    serve: Serve, control: Control, sql: Callable[..., Any]
) -> None:
    serve()
    flow = DBOSFlow(flow_name=unique("paged"), orig_flow=Quick)
    ids = [flow.start().workflow_id for _ in range(7)]
    for run_id in ids:
        ended(run_id)
    sql(
        "UPDATE {ws} SET created_at = 1700000000000 WHERE workflow_uuid IN "
        f"({','.join(repr(run_id) for run_id in ids)})"
    )
    found: list[str] = []
    cursor, count = None, 0
    while True:
        page = control.runs(definition=flow.flow_name, limit=3, cursor=cursor)
        found += [run.run_id for run in page]
        if count == 0:
            flow.kickoff()  # a newer one moves nothing
        count += 1
        if (cursor := page.cursor) is None:
            break
    assert (count, sorted(found)) == (3, sorted(ids))
    assert len(control.runs(definition=flow.flow_name, limit=8)) == 8
    assert control.runs(definition=flow.flow_name, limit=8).cursor is None
    early = datetime.fromtimestamp(1_700_000_001, timezone.utc)
    assert len(control.runs(definition=flow.flow_name, since=early)) == 1


@BOTH
def test_states_are_found_also_behind_many_others(serve: Serve, control: Control) -> None:
    serve(lambda _: error(status=400, message="No such model."))
    durable = crew()
    with pytest.raises(Exception, match="No such model"):
        durable.kickoff()
    (failed,) = control.runs(definition=durable.crew_name, state="failed")
    assert failed.error is not None
    assert failed.error.startswith("BadRequestError: ")
    assert "No such model." in failed.error
    assert failed.seconds is not None
    assert not control.runs(definition=durable.crew_name, state="done")
    assert control.runs(state="failed", limit=1)[0].run_id == failed.run_id


@BOTH
@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "lost"},
        {"kind": "squad"},
        {"limit": 0},
        {"cursor": "page 2"},
        {"cursor": f"{10**30}.run"},
        {"cursor": "1.\0"},
        {"definition": "a\0b"},
        {"definition": "\ud800"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_can_not_be_asked(control: Control, wrong: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError):
        control.runs(**wrong)


@BOTH
def test_one_that_is_not_there(control: Control, serve: Serve) -> None:
    with pytest.raises(RunNotFoundError, match="no run 'nowhere'"):
        control.run("nowhere")
    for wrong in ("", "a\0b", "\ud800"):
        with pytest.raises(RunNotFoundError):
            control.run(wrong)
    flow = DBOSFlow(flow_name=unique("named"), orig_flow=Quick)
    for run_id in ("same%-1", "same%-2"):
        with SetWorkflowID(run_id):
            flow.kickoff()
    assert control.run("same%-1").run_id == "same%-1"
    with pytest.raises(RunNotFoundError, match="Several runs"):
        control.run("same%-")
    with pytest.raises(RunNotFoundError):
        control.run("same_")


def test_times_are_those_of_the_database(control: Control, serve: Serve) -> None:
    flow = DBOSFlow(flow_name=unique("timed"), orig_flow=Quick)
    flow.kickoff()
    (run,) = control.runs(definition=flow.flow_name)
    assert abs(run.created - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert run.started == run.created
    assert run.version == DBOS.application_version
    assert run.executor == DBOS.executor_id
