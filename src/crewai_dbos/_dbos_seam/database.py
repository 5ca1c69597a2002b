"""The database that DBOS keeps its workflows in, for tables of our own and the rows of runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from dbos import DBOSClient, Queue
from dbos._sys_db import SystemDatabase, WorkflowStatusString, db_retry
from dbos._utils import INTERNAL_QUEUE_NAME
from sqlalchemy.dialects import postgresql, sqlite

from crewai_dbos._dbos_seam.context import detached
from crewai_dbos._dbos_seam.instance import launched_instance, system_database

T = TypeVar("T")

DELAYED = WorkflowStatusString.DELAYED.value
ENQUEUED = WorkflowStatusString.ENQUEUED.value
PENDING = WorkflowStatusString.PENDING.value
CANCELLED = WorkflowStatusString.CANCELLED.value
INTERNAL_QUEUE = INTERNAL_QUEUE_NAME
"""Of DBOS: what recovered, resumed and forked runs are taken from that came from no other."""
ALIVE = (PENDING, ENQUEUED, DELAYED)
"""The statuses of a run that has not ended."""
_RUNS = SystemDatabase.tables.workflow_status.name


def chunks(values: Iterable[str]) -> Iterator[list[str]]:
    """`values` in lists that are not too long for one statement."""
    every = list(values)
    for start in range(0, len(every), 500):
        yield every[start : start + 500]


@dataclass(frozen=True)
class RunRow:
    """What of a run's row says who carries it out.

    Attributes:
        status: DBOS's status.
        owner_xid: The execution that may record; None if there is none.
    """

    status: str
    owner_xid: str | None


@dataclass(frozen=True)
class Database:
    """The database that DBOS keeps its workflows in."""

    system: SystemDatabase

    @property
    def schema(self) -> str | None:
        """Where DBOS's tables are; None on SQLite, which has no schemas."""
        schema: str | None = self.system.schema
        return schema

    @property
    def is_sqlite(self) -> bool:
        return str(self.system.engine.dialect.name) == "sqlite"

    @property
    def engine(self) -> sa.Engine:
        engine: sa.Engine = self.system.engine
        return engine

    @property
    def runs(self) -> sa.Table:
        """DBOS's table of workflows, a row a run."""
        table: sa.Table = self.system.tables.workflow_status
        return table

    @property
    def now_ms(self) -> sa.ColumnElement[int]:
        """The time by the clock of the database, in milliseconds, as an expression."""
        now: sa.ColumnElement[int] = self.system._now_ms_sql()
        return now

    def now_of(self, connection: sa.Connection) -> int:
        """That time, as a transaction sees it."""
        return int(connection.execute(sa.select(self.now_ms)).scalar_one())

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that may say what to do ``on_conflict``."""
        return (sqlite if self.is_sqlite else postgresql).insert(table)

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that looks before it writes, alone where a database has one writer."""
        with self.engine.begin() as connection:
            if self.is_sqlite:
                connection.execute(sa.text("BEGIN IMMEDIATE"))
            yield connection

    def patiently(self, function: Callable[[], T]) -> T:
        """What `function` returns, which waits for a database that is away, as DBOS's own calls."""
        return detached(db_retry(sys_db=self.system)(function))

    def rows(self, connection: sa.Connection, run_ids: Iterable[str]) -> dict[str, RunRow]:
        """The rows of those of `run_ids` that are there."""
        runs, found = self.runs, {}
        for some in chunks(run_ids):
            query = sa.select(runs.c.workflow_uuid, runs.c.status, runs.c.owner_xid)
            for run_id, status, xid in connection.execute(
                query.where(*self.system._wf_in(runs, some))
            ):
                found[run_id] = RunRow(status, xid)
        return found

    def status_of(self, run_id: str) -> str | None:
        """DBOS's status of a run; None if there is no such run."""
        with self.engine.connect() as connection:
            row = self.rows(connection, [run_id]).get(run_id)
        return None if row is None else row.status

    def is_alive(self, run_id: Any) -> sa.ColumnElement[bool]:
        """Whether the run has not ended, as an expression; `run_id` may be a column."""
        runs = self.runs
        return sa.exists().where(runs.c.workflow_uuid == run_id, runs.c.status.in_(ALIVE))

    def has_runs(self) -> bool:
        """Whether DBOS has made its tables here."""
        with self.engine.connect() as connection:
            return sa.inspect(connection).has_table(self.runs.name, self.schema)


def is_partitioned(queue: Queue) -> bool:
    """Whether nothing is taken from `queue` that was put there without a partition key."""
    return bool(queue._has_partition_limits())


def sqlite_files(folder: Path) -> list[Path]:
    """The SQLite databases of DBOS's that are files in `folder`."""
    found = (each for pattern in ("*.sqlite*", "*.db") for each in folder.glob(pattern))
    return sorted(each for each in found if each.is_file() and _is_of_dbos(each))


def _is_of_dbos(file: Path) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as opened:
            return opened.execute(query, (_RUNS,)).fetchone() is not None
    except sqlite3.Error:  # it is another kind of file, or nobody may read it
        return False


def launched_database() -> Database:
    """That of the launched DBOS instance."""
    return Database(system_database())


def separate_database() -> Database:
    """That of the DBOS instance, launched or not, on an engine of its own; `close` closes it.

    Its calls raise where those of DBOS wait for a database that is away. DBOS's tables are made, or
    brought up to date, as its launch would.
    """
    instance = launched_instance()
    config: Any = instance._config  # DBOS has filled it in by now
    given = config["system_database_engine"]
    system = SystemDatabase.create(
        system_database_url=config["system_database_url"],
        engine_kwargs=config["database"]["sys_db_engine_kwargs"],
        engine=None if given is None else _like(given),
        schema=config.get("dbos_system_schema", "dbos"),
        serializer=instance._serializer,
        executor_id=None,
        # Nothing listens here; but the tables have to be as the launch would make them.
        use_listen_notify=config.get("use_listen_notify", True),
        app_name=config["name"],
        retry_connection_errors=False,
        sharding=config.get("sharding", False),
    )
    database = Database(system)
    try:
        if config.get("run_migrations", True):
            database.patiently(system.run_migrations)  # another may begin on the same SQLite file
    except BaseException:
        close(database)
        raise
    return database


def close(database: Database) -> None:
    """Let go of one that `separate_database` has returned."""
    if database.system.created_engine or not database.is_sqlite:  # else it is the user's
        database.engine.dispose()


def _like(engine: sa.Engine) -> sa.Engine:
    """An engine that connects as `engine` does, with a pool of its own."""
    if engine.dialect.name == "sqlite":
        return engine
    return sa.create_engine(engine.url, pool=engine.pool.recreate())


def database_of(client: DBOSClient) -> Database:
    """That of a client."""
    return Database(client._sys_db)
