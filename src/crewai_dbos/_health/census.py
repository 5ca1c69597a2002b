"""How many runs there are in the database that have not ended, and how they stand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from crewai_dbos._control.states import standing
from crewai_dbos._control.workers import Fleet
from crewai_dbos._dbos_seam import stored_runs
from crewai_dbos._dbos_seam.database import ALIVE, ENQUEUED, PENDING, Database
from crewai_dbos._dbos_seam.stored_runs import StoredRun
from crewai_dbos._fleet import listing
from crewai_dbos._requests import reading as requests
from crewai_dbos._requests.reading import Outline
from crewai_dbos._requests.table import requests as table_of_requests
from crewai_dbos._stored import names

SECONDS = 5
"""Postgres is asked for so long."""

WORKFLOW = "workflow"
"""The kind of a run of no definition: of a workflow of the user's, which its name is that of."""


@dataclass(frozen=True)
class Census:
    """The runs of one application that have not ended.

    Attributes:
        runs: How many, by kind, name of the definition, and state as of a `control.Run`: what waits
            in a queue is queued, also if somebody has answered it.
        queued: How many wait in a queue, by its name.
        oldest: For how many seconds the oldest of these has waited.
        requests: How many requests to people are open.
    """

    runs: dict[tuple[str, ...], int]
    queued: dict[tuple[str, ...], int]
    oldest: dict[tuple[str, ...], float]
    requests: int


def census(database: Database, application: str) -> Census:
    """Count the runs of an application. It takes one look at those that have not ended."""
    with database.engine.connect() as connection:
        if not database.is_sqlite:
            connection.execute(_BOUND, {"ms": str(SECONDS * 1000)})
        newest = stored_runs.newest_versions(database, connection)
        fleet = Fleet(listing.listed(database, connection))
        rows = list(connection.execute(_query(database, application)))
    runs: Counter[tuple[str, ...]] = Counter()
    queued: Counter[tuple[str, ...]] = Counter()
    oldest: dict[tuple[str, ...], float] = {}
    for row in rows:
        asked = _OPEN if row.is_asking else ()
        state = standing(_standing_for(row, application), asked, newest, str, fleet).state
        kind, definition = row.kind or WORKFLOW, row.definition or row.name or ""
        runs[str(kind), str(definition), state] += row.number
        if row.status == ENQUEUED:
            queue = (row.queue_name or "",)
            queued[queue] += row.number
            waited = max(0.0, (row.now - row.since) / 1000)
            oldest[queue] = max(waited, oldest.get(queue, 0.0))
    return Census(runs, queued, oldest, sum(row.asked or 0 for row in rows[:1]))


def _standing_for(row: Any, application: str) -> StoredRun:
    """A run that stands for a group of them."""
    label = {"kind": row.kind, "definition": row.definition}
    attributes = {
        **({} if row.definition is None else {names.RUN_ATTRIBUTE: label}),
        **({names.ATTRIBUTE: {"waiting": ""}} if row.waits else {}),
    }
    return StoredRun(
        run_id="",
        status=row.status,
        name=row.name or "",
        created_ms=0,
        started_ms=None,
        ended_ms=None,
        deadline_ms=None,
        delay_ms=None,
        attributes=attributes,
        version=row.version,
        application=application,
        executor=row.executor,
        queue=row.queue_name,
        parent=None,
        forked_from=None,
        attempts=0,
        now_ms=row.now,
    )


_OPEN = (Outline("", "", "", "open", None, 0),)


def _query(database: Database, application: str) -> sa.Select[Any]:
    table = database.runs.c
    is_theirs = (
        stored_runs.has_status(database, ALIVE),
        sa.or_(table.application_name == application, table.application_name.is_(None)),
    )
    has_open = requests.has_open(database, table.workflow_uuid)
    # Until it is put on its queue a run has no time of its own for that but its delay's end.
    later = sa.func.coalesce(table.delay_until_epoch_ms, 0)
    since = sa.case((later > table.updated_at, later), else_=table.updated_at)
    groups = (
        sa.select(
            table.status,
            table.name,
            table.queue_name,
            table.application_version.label("version"),
            sa.case((table.status == PENDING, table.executor_id)).label("executor"),
            stored_runs.in_attribute(database, names.RUN_ATTRIBUTE, "kind").label("kind"),
            stored_runs.in_attribute(database, names.RUN_ATTRIBUTE, "definition").label(
                "definition"
            ),
            stored_runs.in_attribute(database, names.ATTRIBUTE, "waiting")
            .is_not(None)
            .label("waits"),
            sa.and_(table.status != ENQUEUED, has_open).label("is_asking"),
            since.label("since"),
        )
        .where(*is_theirs)
        .subquery()
    )
    by = [groups.c[name] for name in _BY]
    return sa.select(
        *by,
        sa.func.count().label("number"),
        sa.func.min(groups.c.since).label("since"),
        _open_requests(database, is_theirs).label("asked"),
        database.now_ms.label("now"),
    ).group_by(*by)


_BY = (
    "status",
    "name",
    "queue_name",
    "version",
    "executor",
    "kind",
    "definition",
    "waits",
    "is_asking",
)


def _open_requests(
    database: Database, is_theirs: tuple[sa.ColumnElement[bool], ...]
) -> sa.ScalarSelect[Any]:
    """How many requests of these runs are open; of a run that has ended none is."""
    asked, runs = table_of_requests(database.schema), database.runs
    of_run = asked.join(runs, asked.c.run_id == runs.c.workflow_uuid)
    return (
        sa.select(sa.func.count())
        .select_from(of_run)
        .where(asked.c.state == "open", *is_theirs)
        .scalar_subquery()
    )


_BOUND = sa.text("SELECT set_config('statement_timeout', :ms, true)")
