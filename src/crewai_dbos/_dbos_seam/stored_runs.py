"""The rows of workflows, as those ask for them who look at many runs, without their contents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from dbos._sys_db import WorkflowStatusString
from sqlalchemy.dialects.postgresql import JSONB

from crewai_dbos._dbos_seam.database import CANCELLED, DELAYED, Database

SUCCESS = WorkflowStatusString.SUCCESS.value
ERROR = WorkflowStatusString.ERROR.value
GIVEN_UP = WorkflowStatusString.MAX_RECOVERY_ATTEMPTS_EXCEEDED.value
ENDED = (SUCCESS, ERROR, CANCELLED, GIVEN_UP)
"""The statuses of a run that does not go on by itself."""


@dataclass(frozen=True)
class StoredRun:
    """The row of a run. Times are milliseconds since 1970.

    Attributes:
        run_id: The workflow id.
        status: DBOS's status.
        name: Of its workflow.
        created_ms: When it was asked for.
        started_ms: When it was taken from a queue; None of one that was never on one.
        ended_ms: When it has ended, if it has.
        deadline_ms: When DBOS cancels it.
        delay_ms: When DBOS puts it on its queue.
        attributes: Of its workflow, by name.
        version: The application version that it is of; None if any takes it.
        application: The name of the application that it belongs to.
        executor: The process that carries it out, or did.
        queue: What it is taken from.
        parent: The workflow that has started it.
        forked_from: The run that it is a fork of.
        attempts: How often it was begun since it was last resumed.
        now_ms: When this was read.
    """

    run_id: str
    status: str
    name: str
    created_ms: int
    started_ms: int | None
    ended_ms: int | None
    deadline_ms: int | None
    delay_ms: int | None
    attributes: Mapping[str, Any]
    version: str | None
    application: str | None
    executor: str | None
    queue: str | None
    parent: str | None
    forked_from: str | None
    attempts: int
    now_ms: int


def is_late(deadline_ms: int | None, ended_ms: int | None) -> bool:
    """Whether a run that was cancelled ended at its deadline, and not before."""
    if deadline_ms is None or ended_ms is None:
        return False
    # On SQLite DBOS may count whole seconds.
    return ended_ms >= (deadline_ms if ended_ms % 1000 else deadline_ms // 1000 * 1000)


Condition = sa.ColumnElement[bool]


def runs(
    database: Database,
    connection: sa.Connection,
    conditions: Iterable[Condition],
    limit: int | None = None,
) -> list[StoredRun]:
    """The runs that fit, the newest first; of two of one time that with the greater id."""
    table = database.runs.c
    query = (
        sa.select(
            table.workflow_uuid,
            table.status,
            table.name,
            table.created_at,
            table.started_at_epoch_ms,
            table.completed_at,
            table.updated_at,
            table.workflow_deadline_epoch_ms,
            table.delay_until_epoch_ms,
            table.attributes,
            table.application_version,
            table.application_name,
            table.executor_id,
            table.queue_name,
            table.parent_workflow_id,
            table.forked_from,
            table.recovery_attempts,
            database.now_ms.label("now"),
        )
        .where(*conditions)
        .order_by(table.created_at.desc(), table.workflow_uuid.desc())
        .limit(limit)
    )
    return [_run(row) for row in connection.execute(query)]


def _run(row: Any) -> StoredRun:
    ended = row.completed_at or row.updated_at if row.status in ENDED else None
    return StoredRun(
        run_id=row.workflow_uuid,
        status=row.status,
        name=row.name or "",
        created_ms=row.created_at,
        started_ms=row.started_at_epoch_ms,
        ended_ms=ended,
        deadline_ms=row.workflow_deadline_epoch_ms,
        delay_ms=row.delay_until_epoch_ms,
        attributes=row.attributes if isinstance(row.attributes, Mapping) else {},
        version=row.application_version,
        application=row.application_name,
        executor=row.executor_id,
        queue=row.queue_name,
        parent=row.parent_workflow_id,
        forked_from=row.forked_from,
        attempts=row.recovery_attempts or 0,
        now_ms=row.now,
    )


# Conditions ------------------------------------------------------------------------


def has_id(database: Database, run_ids: list[str]) -> Condition:
    return sa.and_(*database.system._wf_in(database.runs, run_ids))


def begins_with(database: Database, prefix: str) -> Condition:
    run_id = database.runs.c.workflow_uuid
    condition: Condition = run_id.startswith(prefix, autoescape=True)
    if database.is_sqlite:  # whose LIKE takes upper and lower case for one
        return condition & (sa.func.substr(run_id, 1, len(prefix)) == prefix)
    return condition


def has_status(database: Database, statuses: Iterable[str]) -> Condition:
    """Whether it has one of these.

    One index of DBOS has the runs that are delayed, another those that are pending or enqueued:
    Postgres takes both only if they are asked for apart.
    """
    status, wanted = database.runs.c.status, list(statuses)
    others = status.in_([each for each in wanted if each != DELAYED])
    return sa.or_(others, status == DELAYED) if DELAYED in wanted else others


def is_of_version(database: Database, version: str) -> Condition:
    condition: Condition = database.runs.c.application_version == version
    return condition


def is_called(database: Database, names: Iterable[str], *, not_so: bool = False) -> Condition:
    """Whether its workflow has one of these names; or none of them."""
    name = database.runs.c.name
    found: Condition = name.not_in(list(names)) if not_so else name.in_(list(names))
    return found


def is_created(
    database: Database, *, since_ms: int | None = None, before: tuple[int, str] | None = None
) -> Condition:
    """Whether it was created since then, and comes after `before`, a time and an id, in a list."""
    table = database.runs.c
    wanted: list[Condition] = [sa.true()]
    if since_ms is not None:
        wanted.append(table.created_at >= since_ms)
    if before is not None:
        created, run_id = before
        earlier = (table.created_at < created) | (table.workflow_uuid < run_id)
        wanted += [table.created_at <= created, earlier]
    return sa.and_(*wanted)


def is_child_of(database: Database, run_ids: list[str]) -> Condition:
    condition: Condition = database.runs.c.parent_workflow_id.in_(run_ids)
    return condition


def is_fork_of(database: Database, run_ids: list[str]) -> Condition:
    condition: Condition = database.runs.c.forked_from.in_(run_ids)
    return condition


def has_attribute(database: Database, key: str, field: str, value: str) -> Condition:
    """Whether the attribute `key` of its workflow has `value` in `field`."""
    if database.is_sqlite:
        return in_attribute(database, key, field) == value
    # Served by the index that DBOS has on attributes.
    condition: Condition = database.system._attributes_contains_clause({key: {field: value}})
    return condition


def lacks_attribute(database: Database, key: str, field: str) -> Condition:
    if database.is_sqlite:
        return in_attribute(database, key, field).is_(None)
    attributes = sa.type_coerce(database.runs.c.attributes, JSONB)
    found: Condition = ~sa.func.coalesce(attributes.has_key(key), False)
    return found


def in_attribute(database: Database, key: str, field: str) -> sa.ColumnElement[Any]:
    """The text in `field` of the attribute `key` of its workflow, as an expression."""
    return attribute_among(database.runs, key, field, on_sqlite=database.is_sqlite)


def attribute_among(
    runs: sa.FromClause, key: str, field: str, *, on_sqlite: bool
) -> sa.ColumnElement[Any]:
    """As `in_attribute`, of any selection of rows of runs; NULL where it is not said."""
    if on_sqlite:
        return sa.func.json_extract(runs.c.attributes, f'$."{key}"."{field}"')
    found: sa.ColumnElement[Any] = sa.type_coerce(runs.c.attributes, JSONB)[key][field].astext
    return found


def has_in_input(database: Database, text: str) -> Condition:
    """Whether `text` stands somewhere in the input of its workflow."""
    inputs = database.system.tables.workflow_input
    found = sa.select(inputs.c.workflow_uuid).where(
        database.system._wf_join(database.runs, inputs),
        inputs.c.inputs.contains(text, autoescape=True),
    )
    old = database.runs.c.inputs.contains(text, autoescape=True)
    return found.exists() | sa.func.coalesce(old, sa.false())


def newest_versions(database: Database, connection: sa.Connection) -> dict[str | None, str]:
    """By application, the version that DBOS takes for the newest; under None where it has no name.

    One without a name is every application's.
    """
    table = database.system.tables.application_versions
    query = sa.select(table.c.application_name, table.c.version_name, table.c.version_timestamp)
    rows = list(connection.execute(query.order_by(table.c.version_timestamp)))
    unnamed = [(time, version) for name, version, time in rows if name is None]
    found: dict[str | None, str] = {}
    for name in {name for name, _, _ in rows}:
        own = [(time, version) for owner, version, time in rows if owner == name]
        found[name] = max(own + unnamed)[1]
    return found
