"""Old runs are deleted with all that is stored of them; what can go on stays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from crewai.flow.flow import Flow, start
from dbos import DBOS, SetWorkflowID

from control import reading_runs
from control.reading_runs import crew_of, ended
from crewai_dbos import DBOSCrew, DBOSFlow, People, ask
from crewai_dbos.control import Control, Reply
from crewai_dbos.errors import DefinitionError
from flows.conversation import Desk, history, replies
from people.conftest import until
from support.databases import both_here
from support.names import unique
from support.serving import Serve

BOTH = both_here("url")

serve = reading_runs.serve

DAY = timedelta(days=1)


@pytest.fixture
def aged(sql: Callable[..., Any]) -> Callable[..., None]:
    """Makes runs two days older than they are."""

    def make(*run_ids: str) -> None:
        for run_id in run_ids:
            sql(
                "UPDATE {ws} SET completed_at = completed_at - 172800000, "
                "updated_at = updated_at - 172800000 WHERE workflow_uuid = :run",
                run=run_id,
            )

    return make


@pytest.fixture
def left(sql: Callable[..., Any], url: str) -> Callable[[str], list[int]]:
    """How many rows there are of a run, in each table that has some of any."""
    prefix = "" if url.startswith("sqlite") else "dbos."
    tables = {
        "workflow_status": "workflow_uuid",
        "workflow_input": "workflow_uuid",
        "workflow_output": "workflow_uuid",
        "operation_outputs": "workflow_uuid",
        "workflow_events": "workflow_uuid",
        "crewai_dbos_requests": "run_id",
    }

    def count(run_id: str) -> list[int]:
        return [
            sql(f"SELECT count(*) FROM {prefix}{table} WHERE {key} = :run", run=run_id).scalar()
            for table, key in tables.items()
        ]

    return count


class Asks(Flow):
    @start()
    def only(self) -> str:
        DBOS.set_event("asked", True)
        return str(ask("Well?"))


class Quick(Flow):
    @start()
    def only(self) -> str:
        return "done"


class Parent(Flow):
    @start()
    def only(self) -> str:
        return str(DBOS.start_workflow(waits).workflow_id)


@DBOS.workflow(name="prune.waits")
def waits() -> str:
    return str(DBOS.recv("go", timeout_seconds=60))


@DBOS.workflow(name="prune.plain")
def plain() -> str:
    return "done"


@DBOS.workflow(name="prune.joined")
def joined() -> str:
    return str(_FLOWS[0].kickoff())


_FLOWS: list[DBOSFlow] = []


def flow(cls: type[Flow] = Quick, **options: Any) -> DBOSFlow:
    return DBOSFlow(flow_name=unique("flow"), orig_flow=cls, **options)


def begin(made: DBOSFlow) -> str:
    run_id = unique("pruned")
    with SetWorkflowID(run_id):
        made.start()
    return run_id


@BOTH
def test_an_old_run_goes_with_its_requests_and_events(
    control: Control, aged: Any, left: Callable[[str], list[int]]
) -> None:
    old, young = (begin(flow(Asks, people=People(linger=0.05))) for _ in range(2))
    for run_id in (old, young):
        until(lambda: control.requests(run_id=run_id))  # noqa: B023
        (request,) = control.requests(run_id=run_id)
        control.answer(request.request_id, Reply("yes"), by="ann")
        ended(run_id)
    aged(old)
    assert min(left(old)) > 0
    assert control.prune(DAY, dry_run=True) == [old]
    assert min(left(old)) > 0
    assert control.prune(DAY) == [old]
    assert left(old) == [0] * 6
    assert min(left(young)) > 0
    assert control.prune(DAY) == []


@BOTH
def test_a_batch_goes_with_its_items_when_all_are_old(
    serve: Serve, control: Control, aged: Any, left: Callable[[str], list[int]]
) -> None:
    serve()
    durable, batch = DBOSCrew(crew_name=unique("batch"), orig_crew=crew_of("x")), unique("batch")
    with SetWorkflowID(batch):
        durable.kickoff_for_each(inputs=[{}, {}])
    items = [f"{batch}/1", f"{batch}/2"]
    aged(batch, items[0])
    assert control.prune(DAY) == []
    aged(items[1])
    assert set(control.prune(DAY)) == {batch, *items}
    assert left(items[0]) == [0] * 6


@BOTH
def test_nothing_of_what_is_open(
    control: Control, aged: Any, left: Callable[[str], list[int]]
) -> None:
    parent = begin(flow(Parent))
    ended(parent)
    child = control.run(parent).children[0].children[0].path
    aged(parent)
    # The parent has ended, its child has not.
    assert control.prune(DAY) == []
    DBOS.send(child, "now", "go")
    ended(child)
    aged(child)
    assert set(control.prune(DAY)) == {parent, child}


def test_a_child_of_an_open_parent_stays(
    control: Control, aged: Any, sql: Callable[..., Any]
) -> None:
    child, parent = begin(flow()), unique("open")
    ended(child)
    with SetWorkflowID(parent):
        handle = DBOS.start_workflow(waits)
    sql(
        "UPDATE {ws} SET parent_workflow_id = :parent WHERE workflow_uuid = :run",
        parent=parent,
        run=child,
    )
    aged(child)
    assert control.prune(DAY) == []
    DBOS.send(parent, "now", "go")
    handle.get_result()
    # What it has started is a run of ours, so it goes, too.
    aged(parent)
    assert set(control.prune(DAY)) == {parent, child}


@BOTH
def test_what_an_open_fork_refers_to_stays(
    control: Control, aged: Any, sql: Callable[..., Any]
) -> None:
    parent = begin(flow(Parent))
    ended(parent)
    child = control.run(parent).children[0].children[0].path
    DBOS.send(child, "now", "go")
    ended(child)
    fork = DBOS.fork_workflow(parent, 100).workflow_id
    ended(fork)
    aged(parent, child)
    for status in ("DELAYED", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"):
        sql("UPDATE {ws} SET status = :status WHERE workflow_uuid = :run", run=fork, status=status)
        assert control.prune(DAY) == []
    sql("UPDATE {ws} SET status = 'SUCCESS' WHERE workflow_uuid = :run", run=fork)
    assert set(control.prune(DAY)) == {parent, child}


def test_a_cancelled_fork_goes_with_a_child_of_its_own(
    control: Control, aged: Any, sql: Callable[..., Any]
) -> None:
    made = flow(Parent)
    parent = begin(made)
    ended(parent)
    fork = DBOS.fork_workflow(parent, 1).workflow_id
    ended(fork)
    children = [control.run(each).children[0].children[0].path for each in (parent, fork)]
    assert len(set(children)) == 2
    for child in children:
        DBOS.send(child, "now", "go")
        ended(child)
    sql("UPDATE {ws} SET status = 'CANCELLED' WHERE workflow_uuid = :run", run=fork)
    aged(parent, fork, *children)
    assert set(control.prune(DAY)) | set(control.prune(DAY)) == {parent, fork, *children}


def test_one_that_is_stopped_stays(control: Control, aged: Any, sql: Callable[..., Any]) -> None:
    stopped, cancelled = begin(flow()), begin(flow())
    for run_id in (stopped, cancelled):
        ended(run_id)
        sql("UPDATE {ws} SET status = 'CANCELLED' WHERE workflow_uuid = :run", run=run_id)
    DBOS.update_workflow_attributes(
        stopped, {"crewai_dbos": {"stopped": "put it back", "error": "DriftError"}}, merge=True
    )
    aged(stopped, cancelled)
    assert control.run(stopped).state == "stopped"
    assert control.prune(DAY) == [cancelled]
    control.cancel(stopped, by="ann", reason="It is of no use.")
    given_up = control.run(stopped)
    assert (given_up.state, "ann" in str(given_up.reason)) == ("cancelled", True)
    aged(stopped)
    assert control.prune(DAY) == [stopped]


def test_workflows_in_which_nothing_of_ours_has_worked_stay(control: Control, aged: Any) -> None:
    _FLOWS[:] = [flow()]
    ids = [unique("own"), unique("own")]
    for run_id, workflow in zip(ids, (plain, joined), strict=True):
        with SetWorkflowID(run_id):
            workflow()
    aged(*ids)
    assert control.prune(DAY) == [ids[1]]


def test_more_than_are_deleted_at_once(control: Control, sql: Callable[..., Any]) -> None:
    run_id = begin(flow())
    ended(run_id)
    copies = [f"{run_id}-{number}" for number in range(250)]
    for copy in copies:
        sql(
            "INSERT INTO {ws} (workflow_uuid, status, name, created_at, updated_at, priority) "
            "VALUES (:run, 'SUCCESS', 'crewai_dbos.flow', 1000, 1000, 0)",
            run=copy,
        )
    assert len(control.runs(limit=300, kind="flow")) > 250
    assert sorted(control.prune(DAY)) == sorted(copies)
    assert control.run(run_id).state == "done"


class Frail(Desk):
    def handle_turn(self, message: Any, **options: Any) -> Any:
        if message == "boom":
            raise ValueError("The service is away.")
        return super().handle_turn(message, **options)


@BOTH
def test_a_conversation_goes_on_when_its_old_turns_are_deleted(
    serve: Serve, control: Control, aged: Any, sql: Callable[..., Any]
) -> None:
    serve(replies)
    desk = flow(Frail)
    turns = [f"{desk.flow_name}/ann/{number}" for number in range(1, 5)]
    for said in ("Hello", "Thanks", "boom", "boom"):
        with contextlib.suppress(ValueError):
            desk.handle_turn(said, session_id="ann")
    aged(*turns[:3])
    expected = [turns[0], turns[2]]
    assert sorted(control.prune(DAY, dry_run=True)) == expected
    assert sorted(control.prune(DAY)) == expected
    # One that is old itself, and stays.
    aged(turns[3])
    sql("UPDATE {ws} SET status = 'CANCELLED' WHERE workflow_uuid = :run", run=turns[3])
    stopped = {"crewai_dbos": {"stopped": "put it back", "error": "DriftError"}}
    DBOS.update_workflow_attributes(turns[3], stopped, merge=True)
    aged(turns[3])
    assert control.prune(DAY) == []

    desk.show_as(Frail())  # as a process that was started meanwhile
    desk.handle_turn("Again", session_id="ann")
    said = [text for role, text in history(desk) if role == "user"]
    assert said == ["Hello", "Thanks", "Again"]
    # This one has succeeded, so nothing begins with those before any more.
    assert control.prune(DAY) == [turns[1]]
    control.cancel(turns[3])
    aged(turns[3], f"{desk.flow_name}/ann/5")
    assert len(control.prune(DAY)) == 2


def test_an_age_that_is_none(control: Control) -> None:
    with pytest.raises(DefinitionError):
        control.prune(timedelta(days=-1))
