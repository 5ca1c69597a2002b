"""Requests as they stand: lists of them, and one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa

from crewai_dbos._dbos_seam.database import Database, chunks
from crewai_dbos._requests.request import Question, Request, State, at
from crewai_dbos._requests.table import requests
from crewai_dbos._stored.sealing import Open
from crewai_dbos.errors import SealedError


@dataclass(frozen=True)
class Outline:
    """What of a request is in the clear.

    Attributes:
        request_id: Its id.
        name: Where in the run it is asked: a name of the run's journal.
        kind, state, audience: As of a `Request`.
        created_ms: When it was asked, in milliseconds since 1970.
    """

    request_id: str
    name: str
    kind: str
    state: State
    audience: str | None
    created_ms: int


def find(
    database: Database,
    opened: Open,
    *,
    begins: str | None = None,
    run_id: str | None = None,
    audience: str | None = None,
    audiences: Iterable[str] | None = None,
    after: str | None = None,
    only_open: bool = False,
    limit: int | None = None,
    even_sealed: bool = False,
) -> list[Request]:
    """The requests that fit, the oldest first."""
    table = requests(database.schema)
    wanted: list[Any] = [sa.true()]
    if begins is not None:
        wanted.append(table.c.request_id.startswith(begins, autoescape=True))
    if run_id is not None:
        wanted.append(table.c.run_id == run_id)
    if audience is not None:
        wanted.append(table.c.audience == audience)
    if audiences is not None:
        wanted.append(table.c.audience.is_(None) | table.c.audience.in_([*audiences]))
    if after is not None:
        last = table.alias()
        place = sa.select(last.c.created_ms).where(last.c.request_id == after)
        wanted.append(
            (table.c.created_ms > place.scalar_subquery())
            | ((table.c.created_ms == place.scalar_subquery()) & (table.c.request_id > after))
        )
    if only_open:
        alive = database.is_alive(table.c.run_id)
        wanted += [table.c.state == "open", alive, ~is_late(database)]
    with database.engine.connect() as connection:
        rows = found(database, connection, sa.and_(*wanted), limit=limit)
    return [request_of(row, opened, even_sealed=even_sealed) for row in rows]


def outlines(
    database: Database, connection: sa.Connection, run_ids: Iterable[str]
) -> dict[str, list[Outline]]:
    """By run, what these have asked, the oldest first."""
    columns, late = requests(database.schema).c, is_late(database)
    listed: dict[str, list[Outline]] = {}
    for some in chunks(run_ids):
        query = sa.select(
            columns.run_id,
            columns.request_id,
            columns.name,
            columns.kind,
            sa.case((late, "expired"), else_=columns.state).label("state"),
            columns.audience,
            columns.created_ms,
        ).where(columns.run_id.in_(some))
        for run_id, *rest in connection.execute(query.order_by(columns.created_ms)):
            listed.setdefault(run_id, []).append(Outline(*rest))
    return listed


def has_open(database: Database, run_id: Any) -> sa.ColumnElement[bool]:
    """Whether a run waits for an answer, as an expression; `run_id` may be a column."""
    columns = requests(database.schema).c
    return sa.exists().where(columns.run_id == run_id, columns.state == "open")


def is_late(database: Database) -> sa.ColumnElement[bool]:
    """Whether the deadline of an open request has passed, as an expression: never NULL."""
    columns, now = requests(database.schema).c, database.now_ms
    has_passed = columns.deadline_ms.is_not(None) & (columns.deadline_ms <= now)
    return (columns.state == "open") & has_passed


def found(
    database: Database,
    connection: sa.Connection,
    condition: sa.ColumnElement[bool],
    *,
    lock: bool = False,
    limit: int | None = None,
) -> Sequence[Any]:
    """The rows that fit, the oldest first.

    Args:
        lock: Until the end of the transaction.
    """
    table, late = requests(database.schema), is_late(database)
    over = (table.c.state == "open") & ~database.is_alive(table.c.run_id)
    query = (
        sa.select(table, late.label("late"), over.label("over"))
        .where(condition)
        .order_by(table.c.created_ms, table.c.request_id)
        .limit(limit)
    )
    return connection.execute(query.with_for_update(of=table) if lock else query).all()


_SEALED = "What is asked is encrypted, and can't be read here."


def request_of(row: Any, opened: Open, *, even_sealed: bool = False) -> Request:
    """The request in a row, as everybody sees it.

    Raises:
        SealedError: What is asked can't be read here, and `even_sealed` is not said.
    """
    try:
        question, answer = (
            Question.of_json(opened(loaded(row.question))),
            opened(loaded(row.answer)),
        )
    except SealedError:
        if not even_sealed:
            raise
        question, answer = Question(_SEALED), None
    state = "withdrawn" if row.over else "expired" if row.late else row.state
    return Request(
        request_id=row.request_id,
        run_id=row.run_id,
        path=row.name,
        kind=row.kind,
        state=cast(State, state),
        question=question,
        audience=row.audience,
        on_deadline=row.on_deadline,
        created=at(row.created_ms),
        deadline=at(row.deadline_ms),
        answer=answer,
        answered_by=row.answered_by,
        answered=at(row.answered_ms),
    )


def loaded(text: str | None) -> Any:
    return None if text is None else json.loads(text)
