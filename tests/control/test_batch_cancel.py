"""A batch that is cancelled takes its items with it, and goes on with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS, SetWorkflowID, SetWorkflowTimeout

from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos.control import Control
from crewai_dbos.errors import BatchError, DeadlinePassedError, RunCancelledError, RunStateError
from crewai_dbos.testing import Hang, Reply, Request, hang, text
from people.conftest import Called, status, until
from support.controlling import crew_of
from support.databases import some_here
from support.names import unique
from support.serving import Serve

TOPICS = [{"topic": topic} for topic in ("ants", "bees", "cats", "dogs")]


def about_all_but_ants(held: Hang) -> Callable[[Request], Reply | Hang]:
    """A model that knows of ants at once."""
    return lambda request: text("Ants.") if "ants" in request.last_user_text else held


def statuses(batch_id: str) -> list[str]:
    return [status(f"{batch_id}/{number}") for number in range(1, len(TOPICS) + 1)]


def begun(batch_id: str, made: Any = None) -> Called:
    """A batch of which one item is done, one is at work and two are on the queue."""
    made = made or crew_of()

    def kickoff() -> Any:
        with SetWorkflowID(batch_id):
            return made.kickoff_for_each(TOPICS, concurrency=1)

    return Called(kickoff)


@pytest.mark.parametrize(
    ("how", "url"),
    some_here(
        product(["control", "dbos", "with children"], ["sqlite", "postgres"]),
        [("control", "sqlite"), ("control", "postgres"), ("with children", "sqlite")],
    ),
    indirect=["url"],
)
def test_a_batch_takes_its_items_with_it(how: str, control: Control, serve: Serve) -> None:
    held = hang(text("Late."))
    server = serve(about_all_but_ants(held))
    batch_id, made = unique("batch"), crew_of()
    caller = begun(batch_id, made)
    held.wait_until_held()
    assert status(batch_id) == "PENDING"
    began = time.monotonic()
    if how == "control":
        control.cancel(batch_id, by="ann", reason="Enough")
    else:
        DBOS.cancel_workflow(batch_id, cancel_children=how == "with children")
    with pytest.raises(RunCancelledError) as caught:
        caller.result()
    assert time.monotonic() - began < 5
    assert caught.value.workflow_id == batch_id
    assert caught.value.by == ("ann" if how == "control" else None)
    until(lambda: statuses(batch_id) == ["SUCCESS", *["CANCELLED"] * 3])
    with pytest.raises(RunCancelledError) as of_item:
        made.retrieve(f"{batch_id}/3").get_result()
    assert of_item.value.reason == ("Enough" if how == "control" else None)
    with pytest.raises(RunStateError, match="cancelled already"):
        control.cancel(batch_id)
    assert len(server.requests) == 2
    # It goes on with them, no more at once than before.
    control.resume(batch_id)
    held.wait_until_held(2)
    assert sorted(statuses(batch_id)) == ["ENQUEUED", "ENQUEUED", "PENDING", "SUCCESS"]
    held.release()
    assert [each.raw for each in begun(batch_id, made).result()] == ["Ants.", *["Late."] * 3]
    until(lambda: status(batch_id) == "SUCCESS")
    assert len(server.requests) == 5, "but for the one that was cut short, each is made once"


def test_by_dbos_alone(serve: Serve) -> None:
    held = hang(text("Late."))
    server = serve(about_all_but_ants(held))
    batch_id, made = unique("batch"), crew_of()
    caller = begun(batch_id, made)
    held.wait_until_held()
    DBOS.cancel_workflow(batch_id)
    with pytest.raises(RunCancelledError):
        caller.result()
    until(lambda: statuses(batch_id) == ["SUCCESS", *["CANCELLED"] * 3])
    DBOS.resume_workflow(batch_id)
    held.wait_until_held(2)
    held.release()
    assert [each.raw for each in begun(batch_id, made).result()] == ["Ants.", *["Late."] * 3]
    assert len(server.requests) == 5


def test_one_item_alone(control: Control, serve: Serve) -> None:
    held = hang(text("Late."))
    serve(about_all_but_ants(held))
    batch_id, made = unique("batch"), crew_of()
    caller = begun(batch_id, made)
    held.wait_until_held()
    control.cancel(f"{batch_id}/3", by="bob")
    held.release()
    with pytest.raises(BatchError) as caught:
        caller.result()
    assert list(caught.value.errors) == [2]
    assert isinstance(caught.value.errors[2], RunCancelledError)
    assert status(batch_id) == "SUCCESS"
    with pytest.raises(RunStateError, match="has ended"):
        control.cancel(batch_id)
    control.resume(batch_id)
    until(lambda: statuses(batch_id) == ["SUCCESS"] * 4)


def test_a_deadline(control: Control, serve: Serve) -> None:
    held = hang(text("Late."))
    serve(about_all_but_ants(held))
    batch_id, made = unique("batch"), crew_of()
    with (
        SetWorkflowID(batch_id),
        SetWorkflowTimeout(1.5),
        pytest.raises((DeadlinePassedError, BatchError)) as caught,
    ):
        made.kickoff_for_each(TOPICS, concurrency=1)
    errors = getattr(caught.value, "errors", {0: caught.value})
    assert all(isinstance(each, DeadlinePassedError) for each in errors.values())
    until(lambda: "PENDING" not in statuses(batch_id))
    held.release()
    control.resume(batch_id)
    until(lambda: statuses(batch_id) == ["SUCCESS"] * 4)


def test_in_a_workflow_of_the_users(control: Control, serve: Serve) -> None:
    held = hang(text("Late."))
    serve(about_all_but_ants(held))
    made, run_id = crew_of(), unique("run")
    CREWS[run_id] = made
    with SetWorkflowID(run_id):
        handle = DBOS.start_workflow(own_workflow, run_id)
    held.wait_until_held()
    (batch,) = DBOS.list_workflows(name="crewai_dbos.batch", parent_workflow_id=run_id)
    control.cancel(batch.workflow_id, by="ann")
    assert "by ann" in handle.get_result()
    forked = DBOS.fork_workflow(run_id, len(DBOS.list_workflow_steps(run_id)) + 1)
    assert "by ann" in forked.get_result()
    held.release()


CREWS: dict[str, Any] = {}


@DBOS.workflow(name="batch_cancel.own")
def own_workflow(run_id: str) -> str:
    try:
        return str(CREWS[run_id].kickoff_for_each(TOPICS, concurrency=1))
    except RunCancelledError as error:
        return str(error)


def test_a_batch_whose_process_is_gone_is_no_wait(serve: Serve) -> None:
    """Others have carried out its items: whoever asks for them under its id gets them."""
    server = serve(lambda request: text("Well."))
    batch_id, made = unique("batch"), crew_of()
    begun(batch_id, made).result()
    database = launched_database()
    with database.writing() as connection:
        connection.execute(
            sa.update(database.runs)
            .where(database.runs.c.workflow_uuid == batch_id)
            .values(status="PENDING", executor_id="gone", owner_xid="gone")
        )
    assert [each.raw for each in begun(batch_id, made).result()] == ["Well."] * 4
    assert len(server.requests) == 4
