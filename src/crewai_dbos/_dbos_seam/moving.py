"""The rows of runs that are moved to another application version.

DBOS takes a run in processes of its own version only, and has no way to another but a fork, which
leaves the run where it is.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from dbos._utils import INTERNAL_QUEUE_NAME

from crewai_dbos._dbos_seam.database import ALIVE, ENQUEUED, PENDING, Database


def versions_of(
    database: Database, connection: sa.Connection, application: str | None
) -> list[str]:
    """The versions whose processes have been launched, the newest first.

    Args:
        application: Of this one, and those that are every one's; None for all.
    """
    table = database.system.tables.application_versions
    query = sa.select(table.c.version_name).order_by(table.c.version_timestamp.desc())
    if application is not None:
        name = table.c.application_name
        query = query.where(sa.or_(name == application, name.is_(None)))
    return list(connection.execute(query).scalars())


def alive_of(database: Database, connection: sa.Connection, version: str) -> list[tuple[str, str]]:
    """The ids of the runs of a version that have not ended, and their workflows, oldest first."""
    runs = database.runs
    query = (
        sa.select(runs.c.workflow_uuid, runs.c.name)
        .where(runs.c.application_version == version, runs.c.status.in_(ALIVE))
        .order_by(runs.c.created_at, runs.c.workflow_uuid)
    )
    return [(str(row[0]), str(row[1])) for row in connection.execute(query)]


def move(
    database: Database,
    connection: sa.Connection,
    run_id: str,
    version: str,
    attributes: dict[str, Any],
) -> None:
    """Have a run be of another version; one that is carried out is taken from its process.

    That one can't record in it any more, as when the run is recovered. Its time limit goes on.

    Args:
        connection: Of a transaction that has locked the row.
        version: The application version that it is to be of.
        attributes: Of the run, as they are to be.
    """
    runs = database.runs
    connection.execute(
        sa.update(runs)
        .where(*database.system._wf(runs, run_id))
        .values(
            application_version=version,
            attributes=attributes or sa.null(),
            updated_at=database.now_ms,
        )
    )
    connection.execute(
        sa.update(runs)
        .where(*database.system._wf(runs, run_id))
        .where(runs.c.status == PENDING)
        .values(
            status=ENQUEUED,
            owner_xid=None,
            started_at_epoch_ms=None,
            recovery_attempts=0,
            queue_name=sa.func.coalesce(runs.c.queue_name, INTERNAL_QUEUE_NAME),
        )
    )
