"""The row of a run in DBOS's table, while the run waits for a person.

DBOS has a status for a run that is to begin later, DELAYED: it keeps its queue and its deadline,
takes none of the queue's places, is not recovered, and `get_result` waits on. DBOS offers no way
from PENDING to there.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from dbos._utils import INTERNAL_QUEUE_NAME, GlobalParams

from crewai_dbos._dbos_seam.database import DELAYED, ENQUEUED, PENDING, Database
from crewai_dbos._dbos_seam.instance import launched_instance

FOR_EVER = 2**62
"""Milliseconds; when a run is woken that waits without a deadline."""


def park(
    database: Database,
    connection: sa.Connection,
    run_id: str,
    owner_xid: str,
    until_ms: int,
    queue: str,
) -> bool:
    """Leave a run to its row, if this execution of it may still record.

    Args:
        database: Where it is.
        connection: Of a transaction that has locked the requests that the run waits for.
        run_id: The run's workflow id.
        owner_xid: This execution.
        until_ms: When DBOS wakes it by itself, in milliseconds since 1970.
        queue: What it is taken from when it is woken, unless it came from another one. A run that
            another one has started comes from where any number is taken from.
    """
    runs = database.runs
    left = connection.execute(
        sa.update(runs)
        .where(*database.system._wf(runs, run_id))
        .where(runs.c.status == PENDING, runs.c.owner_xid == owner_xid)
        .values(
            status=DELAYED,
            delay_until_epoch_ms=until_ms,
            owner_xid=None,
            started_at_epoch_ms=None,
            recovery_attempts=0,
            queue_name=sa.case(
                (_comes_from_a_queue(runs), runs.c.queue_name),
                (_may_be_waited_for(runs), INTERNAL_QUEUE_NAME),
                else_=queue,
            ),
            **_version(database, connection),
            updated_at=database.now_ms,
        )
    )
    return left.rowcount == 1


def _comes_from_a_queue(runs: sa.Table) -> sa.ColumnElement[bool]:
    """Not from the one that recovered and resumed runs are taken from, any number at once."""
    queue = runs.c.queue_name
    return queue.is_not(None) & (queue != INTERNAL_QUEUE_NAME)


def _may_be_waited_for(runs: sa.Table) -> sa.ColumnElement[bool]:
    """Another run has started it, and has its place on the queue as long as it waits for this."""
    return runs.c.parent_workflow_id.is_not(None)


def _version(database: Database, connection: sa.Connection) -> dict[str, Any]:
    """The version of a run that waits: whichever is the newest when it is woken.

    Its code is checked then. But only the newest takes runs without a version, so a run of a
    process of another one keeps its own.
    """
    newest = database.system._is_latest_version(GlobalParams.app_version, connection)
    return {"application_version": None} if newest else {}


def wake(database: Database, connection: sa.Connection, run_id: str) -> None:
    """Put a run that was left to its row back on its queue; nothing to any other."""
    runs = database.runs
    connection.execute(
        sa.update(runs)
        .where(*database.system._wf(runs, run_id))
        .where(runs.c.status == DELAYED)
        .values(status=ENQUEUED, delay_until_epoch_ms=None, updated_at=database.now_ms)
    )


def listens_to(queue: str) -> bool:
    """Whether the launched DBOS instance takes runs from `queue`; its config may say which."""
    queues = launched_instance()._listening_queues
    return queues is None or queue in queues
