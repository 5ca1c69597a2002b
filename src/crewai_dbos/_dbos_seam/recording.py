"""DBOS's transaction that records a step, as one statement that is built once.

DBOS makes two, one that looks whether the execution has the workflow, and the INSERT. It builds
both for each step anew, and the INSERT is compiled each time, as SQLAlchemy keeps none with ON
CONFLICT: most of what a step costs its process. So DBOS is had to build its INSERT once for a
database, with parameters, which then takes its row from that look. A row that is not written as it
should be is left to DBOS's own transaction, which says what is wrong with it.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from dbos._schemas import SCHEMA_PLACEHOLDER
from dbos._sys_db import SystemDatabase, db_retry
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

from crewai_dbos._dbos_seam.kept_connection import KeptConnection, at_once, can_be_kept


@dataclass(frozen=True)
class StepRow:
    """A step that has an outcome.

    Attributes:
        run_id: Of its workflow.
        owner_xid: The execution that has made it.
        step_id: Its number.
        name: What it is called.
        output: Its output, as text.
        serialization: What of.
        started_ms: When it began, in milliseconds since 1970.
        ended_ms: When it ended. Written again with the same time, it is the same row.
    """

    run_id: str
    owner_xid: str
    step_id: int
    name: str
    output: str
    serialization: str
    started_ms: int
    ended_ms: int


def record(database: SystemDatabase, row: StepRow) -> None:
    """Write `row`; waits for a database that is away.

    Raises:
        DBOSWorkflowConflictIDError: Another execution has the workflow, or nobody.
        DBOSStepNondeterminismError: There is another row of that number.
    """
    db_retry(sys_db=database)(lambda: _record(database, _statement_of(database), row))()


def _record(database: SystemDatabase, statement: _Statement | None, row: StepRow) -> None:
    if statement is not None and statement.writes(database.engine, row):
        return
    with database._own_key(row.run_id), database.engine.begin() as connection:
        _have_dbos_record(database, vars(row), connection)


def _have_dbos_record(database: SystemDatabase, row: dict[str, Any], connection: Any) -> None:
    """Do what DBOS does with `row`, the fields of a `StepRow`."""
    result: Any = {column: row[name] for name, column in _COLUMNS.items()}
    ended = result.pop("completed_at_epoch_ms")
    result.update(error=None, child_workflow_id=None)
    database._record_operation_result_txn(
        result,
        ended,
        connection,
        owner_xid=row["owner_xid"],
        child_values=database._child_values(None),
    )


_COLUMNS = {
    "run_id": "workflow_uuid",
    "step_id": "function_id",
    "name": "function_name",
    "output": "output",
    "serialization": "serialization",
    "started_ms": "started_at_epoch_ms",
    "ended_ms": "completed_at_epoch_ms",
}
"""By what it is called here, what DBOS calls a column."""


@dataclass(frozen=True)
class _Statement:
    """What writes a row.

    Attributes:
        text: Its SQL, for the driver.
        constants: Its parameters that are no row's.
        kept: The connection that it goes through, where one can be kept.
    """

    text: str
    constants: dict[str, Any]
    kept: KeptConnection | None

    def writes(self, engine: sa.Engine, row: StepRow) -> bool:
        """Write `row`. Returns whether it is there now; if not, nothing was written."""
        parameters = {**self.constants, **vars(row)}
        with (
            self.kept.turn() if self.kept else at_once(engine) as connection,
            # SQLAlchemy takes longer to make a result than SQLite to insert.
            _cursor_of_driver(connection, self.text) as cursor,
        ):
            cursor.execute(self.text, parameters)
            # SQLite commits when all has been read, and says then if it can't.
            found = cursor.fetchall()
        return [ended_ms for (ended_ms,) in found] == [row.ended_ms]

    def close(self) -> None:
        if self.kept is not None:
            self.kept.close()


@contextmanager
def _cursor_of_driver(connection: sa.Connection, statement: str) -> Iterator[Any]:
    """The driver's own cursor, for `statement`: what goes wrong there ends as SQLAlchemy has it."""
    dialect, opened = connection.dialect, connection.connection.dbapi_connection
    assert opened is not None
    try:
        with closing(opened.cursor()) as cursor:
            yield cursor
    except dialect.loaded_dbapi.Error as error:
        is_lost = dialect.is_disconnect(error, connection.connection, None)
        if is_lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            statement, None, error, dialect.loaded_dbapi.Error, connection_invalidated=is_lost
        ) from error
    except BaseException as error:
        # A server may still be at work on it, and is not to be asked to undo that.
        if dialect.name != "sqlite":
            connection.invalidate(error)
        raise


class _Building:
    """A connection on which DBOS executes what it would; nothing is."""

    OWNER = "owner"

    def __init__(self) -> None:
        self.statements: list[Any] = []

    def execute(self, statement: Any) -> _Building:
        self.statements.append(statement)
        return self

    def scalar(self) -> str:
        return self.OWNER

    def fetchall(self) -> list[Any]:
        return []


_kept: WeakKeyDictionary[SystemDatabase, _Statement | None] = WeakKeyDictionary()
_building = threading.Lock()


def letting_go(destroy: Callable[[SystemDatabase], None]) -> Callable[[SystemDatabase], None]:
    """`SystemDatabase.destroy`, after which no connection of it is kept here."""

    @functools.wraps(destroy)
    def destroyed(database: SystemDatabase) -> None:
        try:
            destroy(database)
        finally:
            if (statement := _kept.get(database)) is not None:
                statement.close()

    return destroyed


def _statement_of(database: SystemDatabase) -> _Statement | None:
    if database not in _kept:
        with _building:
            if database not in _kept:
                _kept[database] = _built(database)
        found = _kept[database]
        # It may have been destroyed before anything was recorded.
        if found is not None and not database._run_background_processes:
            found.close()
    return _kept[database]


def _built(database: SystemDatabase) -> _Statement | None:
    """None where it is DBOS that records: in shards, which are not known here."""
    insert, constants = _text(database, _insert_of(database))
    if database.sharded or (parts := _parts(insert)) is None:
        return None
    into, values, conflict = parts
    owned, more = _text(database, _owned(database))
    text = f"{into} {owned.replace(_VALUES, values)} {conflict}"
    kept = KeptConnection(database.engine) if can_be_kept(database.engine) else None
    return _Statement(text, {**constants, **more}, kept)


def _insert_of(database: SystemDatabase) -> Any:
    """The statement by which DBOS writes a row, with parameters."""
    columns = database.tables.operation_outputs.c
    row = {
        name: sa.bindparam(name, type_=columns[column].type) for name, column in _COLUMNS.items()
    }
    connection = _Building()
    _have_dbos_record(database, {**row, "owner_xid": _Building.OWNER}, connection)
    _, insert = connection.statements
    return insert


_VALUES = "the_values_of_the_row"


def _owned(database: SystemDatabase) -> Any:
    """A row where the execution has the workflow, which nobody takes until the transaction ends."""
    runs = database.tables.workflow_status
    run_id: Any = sa.bindparam("run_id", type_=runs.c.workflow_uuid.type)
    owner_xid = sa.bindparam("owner_xid", type_=runs.c.owner_xid.type)
    found: Any = sa.select(sa.literal_column(_VALUES)).select_from(runs)
    found = found.where(*database._wf(runs, run_id), runs.c.owner_xid == owner_xid)
    return found.with_for_update(key_share=True)


def _text(database: SystemDatabase, statement: Any) -> tuple[str, dict[str, Any]]:
    """The SQL of `statement`, and its parameters that never change."""
    dialect, schema = database.engine.dialect, database.schema
    if database._is_sqlite:
        dialect, schema = sqlite.dialect(paramstyle="named"), "main"
    compiled = statement.compile(
        dialect=dialect,
        schema_translate_map={SCHEMA_PLACEHOLDER: schema},
        render_schema_translate=True,
    )
    return str(compiled), {name: bind.value for name, bind in compiled.binds.items()}


def _parts(insert: str) -> Sequence[str] | None:
    """What stands before, in and after the parentheses of VALUES, in a statement as it is known."""
    pattern = r"(INSERT INTO .+ \([^()]+\)) VALUES \((.+)\) (ON CONFLICT .+)"
    found = re.fullmatch(pattern, insert, re.DOTALL)
    return None if found is None else found.group(1, 2, 3)
