"""The rows of runs that are cancelled, or go on again.

DBOS's own cancel and resume say neither why nor by whom, forget the queue, and keep the time limit
of a run: resumed, it is cut off again after the same seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from dbos._utils import INTERNAL_QUEUE_NAME

from crewai_dbos._dbos_seam.attributes import change
from crewai_dbos._dbos_seam.database import (
    ALIVE,
    CANCELLED,
    ENQUEUED,
    PENDING,
    Database,
    chunks,
)
from crewai_dbos._dbos_seam.stored_runs import GIVEN_UP


@dataclass(frozen=True)
class RunToChange:
    """A run that is to be cancelled, resumed, moved or forked, as its row says.

    Attributes:
        run_id: Its workflow id.
        name: Of the workflow.
        status: DBOS's status.
        queue: What it was taken from, or waits in; None for none of the user's.
        executor: The process that carries it out, or did.
        attributes: Of the workflow.
        application: The name of the application that it belongs to; None for any.
        version: The application version that it is of; None for the newest.
    """

    run_id: str
    name: str
    status: str
    queue: str | None
    executor: str | None
    attributes: dict[str, Any]
    application: str | None = None
    version: str | None = None

    @property
    def is_alive(self) -> bool:
        return self.status in ALIVE


_cancels = 0


def cancels() -> int:
    """How often this process has cancelled runs: what it knew of one before may not hold."""
    return _cancels


def note_cancel() -> None:
    """This process has cancelled runs, and that is committed."""
    global _cancels
    _cancels += 1


def noting(cancel: Callable[..., Any]) -> Callable[..., Any]:
    """`SystemDatabase.cancel_workflows`."""

    @functools.wraps(cancel)
    def cancelled(*args: Any, **kwargs: Any) -> Any:
        try:
            return cancel(*args, **kwargs)
        finally:
            note_cancel()

    return cancelled


def runs_to_change(
    database: Database,
    connection: sa.Connection,
    run_id: str,
    *,
    with_children: bool = False,
    lock: bool = True,
) -> list[RunToChange]:
    """The row of a run, and then those of runs that it has started if that is asked for.

    Returns:
        Nothing if there is no such run.
    """
    runs = database.runs
    columns = (
        runs.c.workflow_uuid,
        runs.c.name,
        runs.c.status,
        runs.c.queue_name,
        runs.c.executor_id,
        runs.c.attributes,
        runs.c.application_name,
        runs.c.application_version,
    )
    of_run = sa.and_(*database.system._wf(runs, run_id))
    wanted = [of_run, runs.c.parent_workflow_id == run_id] if with_children else [of_run]
    found: list[RunToChange] = []
    for condition in wanted:
        query = sa.select(*columns).where(condition).order_by(runs.c.created_at)
        found += map(_run_to_change, connection.execute(query.with_for_update() if lock else query))
    return found


def _run_to_change(row: Any) -> RunToChange:
    queue = None if row.queue_name == INTERNAL_QUEUE_NAME else row.queue_name
    attributes = row.attributes if isinstance(row.attributes, dict) else {}
    return RunToChange(
        row.workflow_uuid,
        row.name,
        row.status,
        queue,
        row.executor_id,
        attributes,
        row.application_name,
        row.application_version,
    )


def cancel(
    database: Database,
    connection: sa.Connection,
    attributes: Mapping[str, dict[str, Any]],
    now: int,
) -> None:
    """Cancel runs that have not ended, or say of one that has stopped that it is cancelled.

    Args:
        attributes: Of each run, as they are to be.
        now: When that is.
    """
    runs = database.runs
    for run_id, wanted in attributes.items():
        connection.execute(
            sa.update(runs)
            .where(*database.system._wf(runs, run_id))
            .where(runs.c.status.in_((*ALIVE, CANCELLED, GIVEN_UP)))
            .values(attributes=wanted, **_cancelled_at(now))
        )


def stop(
    database: Database,
    run_id: str,
    owner_xid: str | None,
    noted: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> bool:
    """Cancel a run from inside, if it is still this execution's; waits for the database.

    DBOS's own cancel would stop it for whoever has taken it over.

    Args:
        run_id: The run's workflow id.
        owner_xid: This execution.
        noted: Makes of the attributes of the run what they are to be.

    Returns:
        Whether it was; nothing is written else.
    """
    runs = database.runs
    is_ours = (runs.c.status == PENDING, runs.c.owner_xid == owner_xid)
    cancelled = _cancelled_at(database.now_ms)
    try:
        return change(database, run_id, lambda found, _: noted(found), *is_ours, also=cancelled)
    finally:
        note_cancel()


def _cancelled_at(now: Any) -> dict[str, Any]:
    """What the row of a run has that was cancelled then."""
    return {
        "status": CANCELLED,
        "owner_xid": None,
        "queue_name": None,
        "deduplication_id": None,
        "started_at_epoch_ms": None,
        "updated_at": now,
        "completed_at": now,
    }


def resume(
    database: Database,
    connection: sa.Connection,
    run_id: str,
    attributes: dict[str, Any],
    queue: str | None,
    timeout_ms: int | None,
) -> None:
    """Let a run go on that is not at work.

    Args:
        attributes: Of the run, as they are to be.
        queue: What it is taken from; None for no queue of the user's.
        timeout_ms: How long it may take from when it is taken; None for no limit.
    """
    runs = database.runs
    connection.execute(
        sa.update(runs)
        .where(*database.system._wf(runs, run_id))
        .values(
            status=ENQUEUED,
            attributes=attributes or sa.null(),
            owner_xid=None,
            queue_name=INTERNAL_QUEUE_NAME if queue is None else queue,
            recovery_attempts=0,
            workflow_timeout_ms=timeout_ms,
            workflow_deadline_epoch_ms=None,
            deduplication_id=None,
            started_at_epoch_ms=None,
            delay_until_epoch_ms=None,
            updated_at=database.now_ms,
            completed_at=None,
        )
    )


def alive_children(
    database: Database, connection: sa.Connection, run_ids: Iterable[str]
) -> dict[str, int]:
    """How many of the runs that each of these has started have not ended; 0 is left out."""
    runs, found = database.runs, {}
    parent = runs.c.parent_workflow_id
    for some in chunks(run_ids):
        query = sa.select(parent, sa.func.count()).where(parent.in_(some))
        for run_id, count in connection.execute(
            query.where(runs.c.status.in_(ALIVE)).group_by(parent)
        ):
            found[run_id] = count
    return found
