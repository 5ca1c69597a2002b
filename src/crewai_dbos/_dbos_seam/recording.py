"""DBOS's transaction that records a step, with its statements built once.

DBOS builds the two statements of it for each step anew, and the INSERT is compiled each time, as
SQLAlchemy keeps none with ON CONFLICT: most of what a step costs its process. So DBOS is had to
build them once for a database, with parameters. What they find is judged here as DBOS judges it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from dbos._error import DBOSStepNondeterminismError, DBOSWorkflowConflictIDError
from dbos._schemas import SCHEMA_PLACEHOLDER
from dbos._sys_db import SystemDatabase, db_retry
from sqlalchemy.dialects import sqlite

from crewai_dbos._dbos_seam.single_writer import SingleWriter


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
    db_retry(sys_db=database)(lambda: _record(database, _statements_of(database), row))()


def _record(database: SystemDatabase, statements: _Statements, row: StepRow) -> None:
    begin = (statements.writer or database.engine).begin
    with database._own_key(row.run_id), begin() as connection:
        found = statements.execute(database, connection, "owner", {"new_run_id": row.run_id})
        if found.scalar() != row.owner_xid:
            raise DBOSWorkflowConflictIDError(row.run_id)
        values = {f"new_{name}": getattr(row, name) for name in _COLUMNS}
        written = statements.execute(database, connection, "step", values).scalar()
        if written is None or int(written) != row.ended_ms:
            raise DBOSStepNondeterminismError(row.run_id, row.step_id)


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
class _Statements:
    writer: SingleWriter | None
    built: dict[str, Any]
    texts: dict[str, tuple[str, dict[str, Any]]]

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def execute(
        self, database: SystemDatabase, connection: sa.Connection, name: str, values: dict[str, Any]
    ) -> Any:
        if name in self.texts:
            text, constants = self.texts[name]
            return connection.exec_driver_sql(text, {**constants, **values})
        built = self.built[name]
        return database._execute_prepared(
            connection, f"crewai_dbos.{name}", values, lambda: built, insert_columns=False
        )


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


_kept: WeakKeyDictionary[SystemDatabase, _Statements] = WeakKeyDictionary()
_building = threading.Lock()


def letting_go(destroy: Callable[[SystemDatabase], None]) -> Callable[[SystemDatabase], None]:
    """`SystemDatabase.destroy`, after which no connection of it is kept here."""

    @functools.wraps(destroy)
    def destroyed(database: SystemDatabase) -> None:
        destroy(database)
        if (statements := _kept.get(database)) is not None:
            statements.close()

    return destroyed


def _statements_of(database: SystemDatabase) -> _Statements:
    found = _kept.get(database)
    if found is None:
        with _building:
            found = _kept.get(database) or _built(database)
            _kept[database] = found
        if not database._run_background_processes:  # it was destroyed before anything was recorded
            found.close()
    return found


def _built(database: SystemDatabase) -> _Statements:
    columns = database.tables.operation_outputs.c
    given: Any = {
        column: sa.bindparam(f"new_{name}", type_=columns[column].type)
        for name, column in _COLUMNS.items()
    }
    ended = given.pop("completed_at_epoch_ms")
    connection: Any = _Building()
    result: Any = {**given, "error": None, "child_workflow_id": None}
    database._record_operation_result_txn(
        result,
        ended,
        connection,
        owner_xid=_Building.OWNER,
        child_values=database._child_values(None),
    )
    owner, step = connection.statements
    built = {"owner": owner, "step": step}
    if not database._is_sqlite:  # DBOS compiles and keeps what it is given
        return _Statements(None, built, {})
    texts = {name: _text(each) for name, each in built.items()}
    return _Statements(_writer(database.engine), built, texts)


def _writer(engine: sa.Engine) -> SingleWriter | None:
    if not isinstance(engine.pool, sa.QueuePool):
        return None
    with engine.connect() as connection:
        [[_, _, file], *_] = connection.exec_driver_sql("PRAGMA database_list").all()
    # A database in memory may be there for its one connection only, which the pool then keeps.
    return SingleWriter(engine) if file else None


def _text(statement: Any) -> tuple[str, dict[str, Any]]:
    """The SQL of `statement`, and its parameters that never change."""
    compiled = statement.compile(
        dialect=sqlite.dialect(paramstyle="named"),
        schema_translate_map={SCHEMA_PLACEHOLDER: "main"},
        render_schema_translate=True,
    )
    return str(compiled), {name: bind.value for name, bind in compiled.binds.items()}
