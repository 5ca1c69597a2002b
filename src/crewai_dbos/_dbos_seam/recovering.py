"""Which runs a process recovers: when it is launched, and later."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from dbos import DBOS
from dbos._utils import INTERNAL_QUEUE_NAME, GlobalParams

from crewai_dbos._dbos_seam.context import detached
from crewai_dbos._dbos_seam.database import DELAYED, PENDING, Database
from crewai_dbos._dbos_seam.instance import engine, is_launched, launched_instance, system_database


@dataclass(frozen=True)
class Recovering:
    """Which runs the launched DBOS instance recovers, and where they are.

    Attributes:
        engine: Of the database.
        has_sessions: Whether its connections are sessions, as far as DBOS is told.
        schema, application, version, executor_id: What a run is recovered by.
    """

    engine: sa.Engine
    has_sessions: bool
    schema: str | None
    application: str | None
    version: str
    executor_id: str


def recovering() -> Recovering | None:
    """What this process recovers at its launch; None if it is not launched."""
    if not is_launched():
        return None
    database = system_database()
    return Recovering(
        engine(),
        database.use_listen_notify,
        database.schema,
        GlobalParams.app_name,
        GlobalParams.app_version,
        GlobalParams.executor_id,
    )


SHARED = "local"
"""The executor id of every process that was given none."""


def take_executor_id(executor_id: str) -> None:
    """Have the DBOS instance, which is not launched yet, be called so in its rows."""
    GlobalParams.executor_id = executor_id


def executor_id() -> str:
    """What the process is called in its rows."""
    return str(GlobalParams.executor_id)


def version() -> str:
    """The application version of the launched DBOS instance, whose runs it takes."""
    return str(GlobalParams.app_version)


def recover_from(executor_id: str) -> list[str]:
    """Put the runs of a process that is gone back on their queues; any number of times.

    Of our application and version. A run that another process has taken since stays with it.

    Returns:
        The ids of those that were found.
    """
    handles = detached(DBOS._recover_pending_workflows, [executor_id])
    return [str(handle.workflow_id) for handle in handles]


def runs_at_work() -> list[str]:
    """The ids of the workflows that this process carries out now."""
    return [str(run_id) for run_id in launched_instance()._active_workflows_set.activeList()]


def hand_back(
    database: Database, connection: sa.Connection, run_id: str, owner_xid: str, seconds: float
) -> bool:
    """Give a run back that this execution of it can't carry out, for another process to take.

    DBOS counts how often a run was taken from a queue, to give one up that ends its processes. This
    is none of these times.

    Args:
        database: Where it is.
        connection: Of a transaction.
        run_id: The run's workflow id.
        owner_xid: This execution.
        seconds: For how long nobody takes it, this process neither.
    """
    runs = database.runs
    given = connection.execute(
        sa.update(runs)
        .where(*database.system._wf(runs, run_id))
        .where(runs.c.status == PENDING, runs.c.owner_xid == owner_xid)
        .values(
            status=DELAYED,
            delay_until_epoch_ms=database.now_ms + int(seconds * 1000),
            owner_xid=None,
            started_at_epoch_ms=None,
            recovery_attempts=sa.case(
                (runs.c.recovery_attempts > 0, runs.c.recovery_attempts - 1), else_=0
            ),
            queue_name=sa.func.coalesce(runs.c.queue_name, INTERNAL_QUEUE_NAME),
            updated_at=database.now_ms,
        )
    )
    return given.rowcount == 1
