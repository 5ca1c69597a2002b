"""Runs that ended long ago: which may be deleted, and deleting them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import sqlalchemy as sa

from crewai_dbos._dbos_seam.database import ALIVE, CANCELLED, Database, chunks
from crewai_dbos._dbos_seam.stored_runs import ENDED, GIVEN_UP, Condition, has_status, is_called


def ended_before(database: Database, milliseconds: int) -> Condition:
    """Whether it has ended, and did before then."""
    table = database.runs.c
    ended = sa.func.coalesce(table.completed_at, table.updated_at)
    return has_status(database, ENDED) & (ended < milliseconds)


def not_ended_before(
    database: Database, connection: sa.Connection, milliseconds: int, called: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """Ids and statuses of the runs of these workflows that have not, whose ids have a slash."""
    table = database.runs.c
    query = sa.select(table.workflow_uuid, table.status).where(
        is_called(database, called),
        table.workflow_uuid.contains("/"),
        ~ended_before(database, milliseconds),
    )
    for run_id, status in connection.execute(query):
        yield str(run_id), str(status)


def delete_ended(database: Database, connection: sa.Connection, run_ids: list[str]) -> bool:
    """Delete runs with all that DBOS has stored of them, in the transaction of `connection`.

    Returns:
        False if one of them has not ended: then the transaction is to be rolled back.
    """
    tables = database.system.tables
    status = tables.workflow_status
    # What DBOS has for this (`delete_workflows`) asks for no status, in a transaction of its own.
    ended = (*database.system._wf_in(status, run_ids), status.c.status.in_(ENDED))
    gone = connection.execute(sa.delete(status).where(*ended))
    for table in (tables.workflow_input, tables.workflow_output, tables.operation_outputs):
        connection.execute(sa.delete(table).where(*database.system._wf_in(table, run_ids)))
    return gone.rowcount == len(run_ids)


def has_no_parent(database: Database) -> Condition:
    """Whether nothing has started it, or what has is not there any more."""
    parent, table = database.runs.alias(), database.runs.c
    there = sa.exists().where(parent.c.workflow_uuid == table.parent_workflow_id)
    return table.parent_workflow_id.is_(None) | ~there


def children_of_open_forks(database: Database, connection: sa.Connection) -> set[str]:
    """The workflows that steps refer to which forks have copied that may still go on."""
    table, steps = database.runs, database.system.tables.operation_outputs
    child = table.alias()
    query = (
        sa.select(steps.c.child_workflow_id)
        .join(table, database.system._wf_join(steps, table))
        .join(child, child.c.workflow_uuid == steps.c.child_workflow_id)
        .where(table.c.forked_from.is_not(None), table.c.status.in_(_MAY_GO_ON))
        # Its own go with it.
        .where(child.c.parent_workflow_id.is_distinct_from(table.c.workflow_uuid))
    )
    return set(connection.execute(query).scalars())


_MAY_GO_ON = (*ALIVE, CANCELLED, GIVEN_UP)


def has_steps_in(
    database: Database, connection: sa.Connection, run_ids: Iterable[str], begins: Iterable[str]
) -> bool:
    """Whether one of these runs has a step whose name begins so."""
    names = database.system.tables.operation_outputs
    for some in chunks(run_ids):
        query = sa.select(sa.literal(1)).where(
            *database.system._wf_in(names, some),
            sa.or_(*(names.c.function_name.startswith(each) for each in begins)),
        )
        if connection.execute(query.limit(1)).first() is not None:
            return True
    return False
