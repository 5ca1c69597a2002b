"""The position in a workflow, and the signals that end one (read at 3.4.0)."""

from __future__ import annotations

from typing import Any

from dbos import (
    DBOS,
    SetWorkflowID,
)
from dbos._error import DBOSWorkflowCancelledError, DBOSWorkflowConflictIDError

from crewai_dbos._dbos_seam.context import (
    assigned_workflow_id,
    current_context,
    detached,
    using_context,
)
from crewai_dbos._dbos_seam.errors import DBOSUnexpectedStepError
from support.launching import launched
from support.runs import finish, run_id, steps


def test_the_context_is_that_of_the_workflow_or_of_its_step(url: str) -> None:
    def plan() -> list[Any]:
        context = current_context()
        assert context is not None
        inside = DBOS.run_step(None, where)
        return [context.workflow_id, context.is_workflow(), context.is_step(), *inside]

    def where() -> list[Any]:
        context = current_context()
        assert context is not None
        return [context.workflow_id, context.is_workflow(), context.is_step()]

    run = run_id()
    with launched(url):
        assert current_context() is None
        assert finish(plan, run) == [run, True, False, run, False, True]


def test_a_position_can_be_borrowed_and_is_given_back(url: str) -> None:
    def plan() -> list[Any]:
        context = current_context()
        with using_context(None):
            outside = DBOS.run_step({"name": "unrecorded"}, lambda: DBOS.workflow_id)
            with using_context(context):
                inside = DBOS.run_step({"name": "recorded"}, lambda: DBOS.workflow_id)
        return [outside, inside, current_context() is context]

    run = run_id()
    with launched(url):
        assert finish(plan, run) == [None, run, True]
        assert [row["function_name"] for row in steps(run)] == ["recorded"]


def test_what_is_detached_is_no_step_of_the_workflow(url: str) -> None:
    def plan() -> list[Any]:
        return [
            len(detached(DBOS.list_workflow_steps, str(DBOS.workflow_id))),
            len(DBOS.list_workflow_steps(str(DBOS.workflow_id))),
        ]

    run = run_id()
    with launched(url):
        assert finish(plan, run) == [0, 0]
        assert [row["function_name"] for row in steps(run)] == ["DBOS.listWorkflowSteps"]


@DBOS.workflow(name="seam_takes_the_id")
def takes_the_id() -> str | None:
    return DBOS.workflow_id


def test_the_assigned_id_is_seen_until_a_workflow_takes_it(url: str) -> None:
    with launched(url):
        assert assigned_workflow_id() is None
        with SetWorkflowID("outer"):
            assert assigned_workflow_id() == "outer"
            with SetWorkflowID("inner"):
                assert assigned_workflow_id() == "inner"
            assert assigned_workflow_id() == "outer"
            assert takes_the_id() == "outer"
            assert assigned_workflow_id() is None
        assert assigned_workflow_id() is None


def test_the_signals_of_dbos_pass_what_catches_exceptions() -> None:
    for cls in (DBOSWorkflowCancelledError, DBOSWorkflowConflictIDError):
        assert issubclass(cls, BaseException)
        assert not issubclass(cls, Exception)
    assert issubclass(DBOSUnexpectedStepError, Exception)
