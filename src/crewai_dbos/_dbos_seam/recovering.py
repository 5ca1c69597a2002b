"""Rows of runs that are put back on their queues, and what DBOS calls this process in its rows.

A run is put back when its process has died, or when its process can't carry it out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from dbos._utils import INTERNAL_QUEUE_NAME, GlobalParams

from crewai_dbos._dbos_seam.database import (
    ENQUEUED,
    PENDING,
    Database,
    chunks,
    launched_database,
)
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
    """The application version of the DBOS instance, launched or not, whose runs it takes."""
    given = GlobalParams.app_version
    return str(given or launched_instance()._registry.compute_app_version(configured_name()))


def configured_name() -> str:
    """What the application of the DBOS instance, launched or not, is called in its rows."""
    return str(launched_instance()._config["name"])


def is_recovered_by_conductor() -> bool:
    """Whether DBOS leaves recovery to a service of its own, and its id of a process, too."""
    return launched_instance().conductor_key is not None


def recover(
    database: Database,
    connection: sa.Connection,
    executor_id: str,
    attributes: Mapping[str, Any],
    *which: sa.ColumnElement[bool],
) -> list[str]:
    """Put runs of a process that is gone back on their queues, as DBOS's own recovery does.

    Args:
        connection: Of a transaction.
        executor_id: The process.
        attributes: What their workflows have from now on beside their own attributes.
        which: Conditions on rows of the table of workflows.

    Returns:
        Their ids, without those whose rows somebody else has locked.
    """
    runs = database.runs
    its = (runs.c.status == PENDING, runs.c.executor_id == executor_id, *which)
    found = sa.select(runs.c.workflow_uuid).where(*its).with_for_update(skip_locked=True)
    recovered: list[str] = []
    for some in chunks(connection.execute(found).scalars().all()):
        put_back = (
            sa.update(runs)
            .where(*database.system._wf_in(runs, some), *its)
            .values(
                status=ENQUEUED,
                owner_xid=None,
                started_at_epoch_ms=None,
                attributes=_with(database, attributes),
                queue_name=sa.func.coalesce(runs.c.queue_name, INTERNAL_QUEUE_NAME),
                updated_at=database.now_ms,
            )
        )
        recovered += connection.execute(put_back.returning(runs.c.workflow_uuid)).scalars()
    return recovered


def _with(database: Database, attributes: Mapping[str, Any]) -> sa.ColumnElement[Any]:
    """The attributes of a run with these put in, as DBOS merges them."""
    column = database.runs.c.attributes
    if database.is_sqlite:
        is_object = sa.func.json_type(column) == "object"
        found: sa.ColumnElement[Any] = sa.case((is_object, column), else_=sa.literal("{}"))
        for name, item in attributes.items():
            path = f"$.{json.dumps(name)}"
            found = sa.func.json_set(found, path, sa.func.json(json.dumps(item)))
        return found
    nothing = sa.literal({}, type_=column.type)
    before = sa.case((sa.func.jsonb_typeof(column) == "object", column), else_=nothing)
    return before.op("||")(sa.literal(dict(attributes), column.type))


def go_on(
    run_id: str, owner_xid: str, attributes: Mapping[str, Any], *, counts: bool = False
) -> bool:
    """Put a run back on its queue that this execution of it can't carry out.

    A time limit of the run's that began with this execution is not used up. It waits for a database
    that is away.

    Args:
        run_id: The run's workflow id.
        owner_xid: This execution.
        attributes: What its workflow has from now on beside its own attributes.
        counts: Whether this execution is one of the times that DBOS counts, to give up a run that
            is taken again and again.

    Returns:
        Whether it was still this execution's: it stays with whoever has taken it, or cancelled it.
    """
    if not is_launched():
        return False
    database = launched_database()

    def given() -> bool:
        with database.writing() as connection:
            return _put_back(database, connection, run_id, owner_xid, attributes, counts)

    return database.patiently(given)


_CLOCKS_MS = 5000
"""So far may a deadline and the start of its claim be apart, which DBOS takes from two clocks."""


def _put_back(
    database: Database,
    connection: sa.Connection,
    run_id: str,
    owner_xid: str,
    attributes: Mapping[str, Any],
    counts: bool,
) -> bool:
    runs = database.runs
    its_row = database.system._wf(runs, run_id)
    given = connection.execute(
        sa.update(runs)
        .where(*its_row, runs.c.status == PENDING, runs.c.owner_xid == owner_xid)
        .values(
            status=ENQUEUED,
            owner_xid=None,
            workflow_deadline_epoch_ms=_deadline_before(runs),
            started_at_epoch_ms=None,
            recovery_attempts=sa.case(
                (runs.c.recovery_attempts > 0, runs.c.recovery_attempts - (0 if counts else 1)),
                else_=0,
            ),
            queue_name=sa.func.coalesce(runs.c.queue_name, INTERNAL_QUEUE_NAME),
            updated_at=database.now_ms,
        )
    )
    if given.rowcount != 1 or not attributes:
        return given.rowcount == 1
    found = connection.execute(sa.select(runs.c.attributes).where(*its_row)).scalar_one()
    told = {**(found if isinstance(found, Mapping) else {}), **attributes}
    if told != found:
        connection.execute(sa.update(runs).where(*its_row).values(attributes=told))
    return True


def _deadline_before(runs: sa.Table) -> sa.ColumnElement[int | None]:
    """The deadline without the claim that a run is under, which sets one if there is none."""
    columns = runs.c
    began = columns.workflow_deadline_epoch_ms - columns.workflow_timeout_ms
    by_this_claim = sa.func.abs(began - columns.started_at_epoch_ms) <= _CLOCKS_MS
    return sa.case((by_this_claim, None), else_=columns.workflow_deadline_epoch_ms)


def of_others(
    database: Database, application: str, version: str, most: int = 3
) -> list[tuple[str, str | None, int, list[str]]]:
    """The runs in a database that wait and that a process of this application does not take.

    Returns:
        Application, version (None for whichever), how many runs, and the ids of the first `most`,
        for each.
    """
    runs = database.runs.c
    name, its_version = runs.application_name, runs.application_version
    others = runs.status.in_((PENDING, ENQUEUED)) & sa.or_(
        name != application, its_version != version
    )
    counted = (
        sa.select(name, its_version, sa.func.count())
        .where(others)
        .group_by(name, its_version)
        .order_by(name, its_version)
    )
    first = sa.select(runs.workflow_uuid).order_by(runs.created_at, runs.workflow_uuid).limit(most)
    with database.engine.connect() as connection:
        return [
            (
                str(other),
                None if of_version is None else str(of_version),
                int(count),
                list(
                    connection.scalars(
                        first.where(others, name == other, its_version == of_version)
                    )
                ),
            )
            for other, of_version, count in connection.execute(counted).all()
        ]
