"""Runs that have no result: the error that a caller gets of them, in place of DBOS's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dbos import DBOS, WorkflowStatus
from dbos import error as dbos_errors

from crewai_dbos import _command_lines
from crewai_dbos._dbos_seam.context import detached
from crewai_dbos._dbos_seam.database import Database, launched_database
from crewai_dbos._dbos_seam.forks import going_on_for
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
    run_id: str,
    error: Exception,
    look: Callable[[], WorkflowStatus | None] | None = None,
    database: Callable[[], Database] = launched_database,
) -> Exception:
    """What a caller gets in place of `error`, which DBOS raises to it as the end of a run.

    Args:
        run_id: The run's id.
        error: What DBOS raises.
        look: Looks up the run's status; by default in the launched instance.
        database: Where it is; by default that of this instance.
    """
    status = detached(look or (lambda: DBOS.get_workflow_status(run_id)))
    if status is None:
        return RunNotFoundError(run_id) if _is_of(run_id, error) else error
    ours = status.name in names.WORKFLOWS
    if ours and status.status == "CANCELLED" and notes.is_stopped(status):
        return _stopped(notes.of(status), _fork_of(run_id, database()))
    if _is_of(run_id, error):
        return _without_result(status, error, database)
    return failure.as_raised(error) if ours else error


def _stopped(note: Mapping[str, Any], fork: str | None) -> Exception:
    """The error of a run that has stopped, from what is said of it."""
    told = str(note["stopped"])
    if fork is not None:
        told = (
            f"The result is that of the fork {fork!r} ({_command_lines.show(fork)}). Its run had "
            f"stopped: {told}"
        )
    if note.get("error") == BudgetExceeded.__name__:
        stopped: Any = BudgetExceeded(told, **note.get("budget", {}))
    else:
        stopped = _STOPPED.get(str(note.get("error")), RunStoppedError)(told)
    stopped.fork = fork
    return stopped  # type: ignore[no-any-return]


def _is_of(run_id: str, error: Exception) -> bool:
    """Whether `error` is of this run. A workflow of the user's may end with that of another."""
    return isinstance(error, OF_DBOS) and run_of(error) == run_id


def _without_result(
    status: WorkflowStatus, error: Exception, database: Callable[[], Database]
) -> Exception:
    run_id = status.workflow_id
    if isinstance(error, _GIVEN_UP):
        return RecoveryLimitError(run_id)
    if isinstance(error, dbos_errors.DBOSAwaitedWorkflowCancelledError):
        return cancelled(status, database())
    return error


def cancelled(status: WorkflowStatus, database: Database | None = None) -> RunCancelledError:
    """The error of a run that was cancelled: by whom and why, as far as that was said.

    Args:
        database: Where it is; by default that of the launched instance.
    """
    run_id = status.workflow_id
    fork = _fork_of(run_id, database or launched_database())
    if (said := notes.cancelled(status.attributes)) is not None:
        return RunCancelledError(run_id, said.by, said.reason, fork)
    late = is_late(status.workflow_deadline_epoch_ms, status.completed_at)
    return (DeadlinePassedError if late else RunCancelledError)(run_id, fork=fork)


def _fork_of(run_id: str, database: Database) -> str | None:
    """The last fork that goes on for a run; None if there is none."""

    def look() -> str | None:
        with database.engine.connect() as connection:
            found = going_on_for(database, connection, run_id)
        return found[-1].run_id if found else None

    return database.patiently(look)
