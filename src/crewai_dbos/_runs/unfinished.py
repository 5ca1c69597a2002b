"""Runs that have no result: the error that a caller gets of them, in place of DBOS's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbos import DBOS, WorkflowStatus
from dbos import error as dbos_errors

from crewai_dbos._dbos_seam.context import detached
from crewai_dbos._dbos_seam.stored_runs import is_late
from crewai_dbos._journal import notes
from crewai_dbos._runs import failure
from crewai_dbos._stored import names
from crewai_dbos.errors import (
    BudgetExceeded,
    CrewaiDbosError,
    DeadlinePassedError,
    DriftError,
    JournalCorruptError,
    RecoveryLimitError,
    RequestExpired,
    RunAbortedError,
    RunCancelledError,
    RunNotFoundError,
    RunStoppedError,
    SealedError,
)

_STOPPED: dict[str, type[CrewaiDbosError]] = {
    cls.__name__: cls
    for cls in (DriftError, JournalCorruptError, RequestExpired, RunAbortedError, SealedError)
}

_GIVEN_UP = (
    dbos_errors.DBOSAwaitedWorkflowMaxRecoveryAttemptsExceeded,
    dbos_errors.MaxRecoveryAttemptsExceededError,
)

OF_DBOS = (
    dbos_errors.DBOSAwaitedWorkflowCancelledError,
    dbos_errors.DBOSNonExistentWorkflowError,
    *_GIVEN_UP,
)
"""What DBOS raises to a caller that waits for a run without a result."""


def run_of(error: Any) -> str:
    """The id of the run that one of `OF_DBOS` is about."""
    missing = isinstance(error, dbos_errors.DBOSNonExistentWorkflowError)
    return str(error.destination_id if missing else error.workflow_id)


def as_raised(
    run_id: str, error: Exception, look: Callable[[], WorkflowStatus | None] | None = None
) -> Exception:
    """What a caller gets in place of `error`, which DBOS raises to it as the end of a run.

    Args:
        run_id: The run's id.
        error: What DBOS raises.
        look: Looks up the run's status; by default in the launched instance.
    """
    status = detached(look or (lambda: DBOS.get_workflow_status(run_id)))
    if status is None:
        return RunNotFoundError(run_id) if _is_of(run_id, error) else error
    ours = status.name in names.WORKFLOWS
    if ours and status.status == "CANCELLED" and notes.is_stopped(status):
        note = notes.of(status)
        if note.get("error") == BudgetExceeded.__name__:
            return BudgetExceeded(note["stopped"], **note.get("budget", {}))
        return _STOPPED.get(str(note.get("error")), RunStoppedError)(note["stopped"])
    if _is_of(run_id, error):
        return _without_result(status, error)
    return failure.as_raised(error) if ours else error


def _is_of(run_id: str, error: Exception) -> bool:
    """Whether `error` is of this run. A workflow of the user's may end with that of another."""
    return isinstance(error, OF_DBOS) and run_of(error) == run_id


def _without_result(status: WorkflowStatus, error: Exception) -> Exception:
    run_id = status.workflow_id
    if isinstance(error, _GIVEN_UP):
        return RecoveryLimitError(run_id)
    if isinstance(error, dbos_errors.DBOSAwaitedWorkflowCancelledError):
        return cancelled(status)
    return error


def cancelled(status: WorkflowStatus) -> RunCancelledError:
    """The error of a run that was cancelled: by whom and why, as far as that was said."""
    run_id = status.workflow_id
    if (said := notes.cancelled(status.attributes)) is not None:
        return RunCancelledError(run_id, said.by, said.reason)
    late = is_late(status.workflow_deadline_epoch_ms, status.completed_at)
    return DeadlinePassedError(run_id) if late else RunCancelledError(run_id)
