"""What a process records goes through one connection, which is kept."""

from __future__ import annotations

import contextlib
import gc
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any
from weakref import ref

import psycopg
import pytest
import sqlalchemy as sa
from dbos import DBOS
from dbos._error import DBOSWorkflowConflictIDError
from dbos._serialization import DefaultSerializer
from dbos._sys_db import SystemDatabase

from crewai_dbos._dbos_seam import kept_connection, recording
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._dbos_seam.instance import engine
from crewai_dbos._dbos_seam.kept_connection import KeptConnection
from crewai_dbos._dbos_seam.recording import StepRow, record
from crewai_dbos._dbos_seam.sqlite_journal import checked_out
from crewai_dbos._journal.joining import joined
from people.conftest import until
from support.launching import launched
from support.postgres import Postgres
from support.runs import Work, begin, entries, finish, result, run_id
from support.statements import heard

work = Work()


@pytest.fixture(autouse=True)
def forgetful() -> None:
    work.forget()


def one_call() -> Any:
    with joined("work") as scope:
        return work.call(scope, "a")


def test_runs_side_by_side_record_on_it(url: str) -> None:
    used: set[int] = set()

    def executed(connection: Any, statement: str) -> None:
        if "operation_outputs" in statement and statement.startswith("INSERT"):
            used.add(id(connection))

    with heard(executed), launched(url):
        runs = [run_id() for _ in range(16)]
        for handle in [begin(one_call, run) for run in runs]:
            result(handle)
        assert [entries(run) for run in runs] == [["work#1/a#1"]] * 16
    assert len(used) == 1
    assert work.done == {"a": 16}


def test_a_destroyed_dbos_leaves_no_file_open(url: str, tmp_path: Path) -> None:
    with launched(url):
        finish(one_call, run_id())
        assert times_open(tmp_path / "dbos.sqlite")
    assert not times_open(tmp_path / "dbos.sqlite")


def times_open(file: Path) -> int:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing, for one
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found.count(str(file))


def test_after_a_failure_it_writes_on(url: str) -> None:
    """As when DBOS finds that a row is another execution's, and as when the disk was full."""
    made = sa.create_engine(url)
    writer = KeptConnection(made)
    with writer.turn() as connection:
        connection.exec_driver_sql("CREATE TABLE a (n INTEGER PRIMARY KEY)")

    def twice() -> None:
        with writer.turn() as connection:
            connection.exec_driver_sql("INSERT INTO a VALUES (1), (1)")

    with pytest.raises(sa.exc.IntegrityError):
        twice()
    with writer.turn() as connection:
        connection.exec_driver_sql("INSERT INTO a VALUES (2)")
    with made.connect() as connection:
        assert connection.exec_driver_sql("SELECT n FROM a").all() == [(2,)]
    made.dispose()


def test_what_could_not_be_undone_is_not_committed_by_the_next(url: str) -> None:
    """The refused row may be that of an execution whose run is another's."""
    made = sa.create_engine(url)
    writer = KeptConnection(made)
    with writer.turn() as connection:
        connection.exec_driver_sql("CREATE TABLE a (n INTEGER)")

    def insert(number: int, *, fail: bool = False) -> None:
        with writer.turn() as connection:
            if fail:
                connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("INSERT INTO a VALUES (?)", (number,))
            assert not fail

    with pytest.raises(AssertionError):
        insert(1, fail=True)
    insert(2)
    with made.connect() as connection:
        assert connection.exec_driver_sql("SELECT n FROM a").all() == [(2,)]
    made.dispose()


def test_it_is_closed_at_once_while_a_thread_writes(url: str, tmp_path: Path) -> None:
    """DBOS is destroyed, and does not wait for those that wait for the lock of the database."""
    made = sa.create_engine(url, poolclass=sa.QueuePool)
    writer = KeptConnection(made)
    writing, go_on = threading.Event(), threading.Event()

    def write() -> None:
        with writer.turn() as connection:
            connection.exec_driver_sql("CREATE TABLE a (n INTEGER)")
            writing.set()
            assert go_on.wait(60)

    def write_more() -> None:
        with writer.turn() as connection:
            connection.exec_driver_sql("INSERT INTO a VALUES (1)")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(write)
        assert writing.wait(60)
        second = pool.submit(write_more)
        writer.close()
        assert not first.done()
        assert not second.done()
        go_on.set()
        second.result(60)
    made.dispose()
    assert not times_open(tmp_path / "dbos.sqlite")


def test_an_interrupt_while_it_is_opened_leaves_none_in_another_mode(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written on it would not be committed."""
    made = sa.create_engine(url)
    writer = KeptConnection(made)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(made.dialect, "set_isolation_level", interrupted)
        with pytest.raises(KeyboardInterrupt), writer.turn():
            pass
    with writer.turn() as connection:
        connection.exec_driver_sql("CREATE TABLE a (n INTEGER)")
        connection.exec_driver_sql("INSERT INTO a VALUES (1)")
    with made.connect() as connection:
        assert connection.exec_driver_sql("SELECT n FROM a").all() == [(1,)]
    writer.close()
    made.dispose()


def test_what_can_not_be_committed_is_an_error(url: str) -> None:
    """SQLite finds out at the end of the statement that somebody reads."""
    made = sa.create_engine(url, connect_args={"timeout": 0})
    writer = KeptConnection(made)
    with writer.turn() as connection:
        connection.exec_driver_sql("CREATE TABLE a (n INTEGER)")

    def insert() -> None:
        with writer.turn() as connection:
            statement = "INSERT INTO a VALUES (1) RETURNING n"
            assert connection.exec_driver_sql(statement).scalar() == 1

    with made.connect() as reader:
        reader.exec_driver_sql("BEGIN")
        reader.exec_driver_sql("SELECT n FROM a").all()
        with pytest.raises(sa.exc.OperationalError, match="locked"):
            insert()
        reader.rollback()
    insert()
    with made.connect() as connection:
        assert connection.exec_driver_sql("SELECT n FROM a").all() == [(1,)]
    writer.close()
    made.dispose()


class ClosedLate(KeptConnection):
    """Is closed by another thread when its transaction has just ended."""

    def _is_unclear(self) -> bool:
        closing = threading.Thread(target=self.close)
        closing.start()
        closing.join(60)
        return super()._is_unclear()


def test_it_is_closed_in_the_last_moment_of_a_transaction(url: str, tmp_path: Path) -> None:
    made = sa.create_engine(url)
    writer = ClosedLate(made)
    with writer.turn() as connection:
        connection.exec_driver_sql("CREATE TABLE a (n INTEGER)")
    made.dispose()
    assert not times_open(tmp_path / "dbos.sqlite")


def test_threads_take_turns(url: str) -> None:
    """With the shortest patience of SQLite's: nobody finds the database locked."""
    made = sa.create_engine(url, connect_args={"timeout": 0})
    writer = KeptConnection(made)
    with writer.turn() as connection:
        connection.exec_driver_sql("CREATE TABLE a (n INTEGER)")

    def insert(number: int) -> None:
        with writer.turn() as connection:
            connection.exec_driver_sql("INSERT INTO a VALUES (?)", (number,))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(insert, range(200)))
    with made.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM a").scalar() == 200
    made.dispose()


def test_an_engine_with_one_connection_has_it_for_itself(url: str, tmp_path: Path) -> None:
    """A user's engine for DBOS may have no connection to spare."""
    one = sa.create_engine(url, pool_size=1, max_overflow=0, pool_timeout=5)
    for _ in range(2):
        with launched(url, system_database_engine=one):
            run = run_id()
            finish(one_call, run)
            assert entries(run) == ["work#1/a#1"]
    assert one.pool.checkedout() == 0
    one.dispose()
    assert not times_open(tmp_path / "dbos.sqlite")


def test_a_database_in_memory_is_not_left(url: str) -> None:
    """It is there for as long as its one connection."""
    memory = sa.create_engine(
        "sqlite://",
        poolclass=sa.QueuePool,
        pool_size=1,
        max_overflow=0,
        connect_args={"check_same_thread": False},
    )
    with launched(url, system_database_engine=memory):
        run = run_id()
        finish(one_call, run)
        assert entries(run) == ["work#1/a#1"]
        assert DBOS.retrieve_workflow(run).get_status().status == "SUCCESS"
    memory.dispose()


def created(url: str, engine: sa.Engine | None = None) -> SystemDatabase:
    system = SystemDatabase.create(
        url.replace("postgresql:", "postgresql+psycopg:"),
        {},
        engine,
        "dbos",
        DefaultSerializer(),
        None,
    )
    system.run_migrations()
    return system


def record_for_nobody(system: SystemDatabase) -> None:
    with pytest.raises(DBOSWorkflowConflictIDError):
        record(system, StepRow("no run", "nobody", 1, "a#1", "{}", "portable_json", 1, 2))


@pytest.mark.parametrize("before", [False, True])
def test_what_is_recorded_after_dbos_was_destroyed_leaves_no_file_open(
    before: bool, url: str, tmp_path: Path
) -> None:
    """DBOS does not wait for ever for a call that is being made."""
    system = created(url)
    if before:
        record_for_nobody(system)
    system.destroy()
    record_for_nobody(system)
    system.engine.dispose()
    assert not times_open(tmp_path / "dbos.sqlite")


@pytest.mark.parametrize("kind", ["sqlite", "memory", "postgres"])
def test_a_database_is_let_go(kind: str, url: str, request: pytest.FixtureRequest) -> None:
    if kind == "postgres":
        url = request.getfixturevalue("postgres").create_database()
    memory = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    system = created(url, memory if kind == "memory" else None)
    record_for_nobody(system)
    system.destroy()
    gone = ref(system)
    del system
    gc.collect()
    assert gone() is None


class Busy(sqlite3.Connection):
    """Finds the database locked."""

    locked = False

    def cursor(self, *args: Any) -> Any:
        if self.locked:
            raise sqlite3.OperationalError("database is locked")
        return super().cursor(*args)


def test_a_connection_that_could_not_be_asked_is_not_kept(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be one whose commits are lost with the power."""
    made = sa.create_engine(url, connect_args={"factory": Busy})
    with made.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE a (n INTEGER)")
    sa.event.listen(made, "checkout", checked_out)
    writer = KeptConnection(made)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Busy, "locked", True)
        with pytest.raises(sa.exc.OperationalError, match="locked"):
            insert_one(writer)
    assert insert_one(writer) == "persist"
    made.dispose()
    writer.close()


def insert_one(writer: KeptConnection) -> Any:
    """Returns the mode of the journal."""
    with writer.turn() as connection:
        connection.exec_driver_sql("INSERT INTO a VALUES (1)")
        return connection.exec_driver_sql("PRAGMA journal_mode").scalar()


def test_the_first_call_waits_for_a_pool_that_is_used_up(url: str) -> None:
    one = sa.create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    with launched(url, system_database_engine=one):
        taken: Queue[sa.Connection] = Queue()

        def plan() -> Any:
            with joined("work") as scope:
                return work.call(scope, "a", lambda: taken.put(engine().connect()))

        run = run_id()
        handle = begin(plan, run)
        held = taken.get(timeout=60)
        with pytest.raises(sa.exc.TimeoutError):
            engine().connect()
        held.close()
        result(handle)
        assert entries(run) == ["work#1/a#1"]
    one.dispose()
    assert work.done == {"a": 1}


# On Postgres ----------------------------------------------------------------------------------


@pytest.fixture
def server_url(postgres: Postgres) -> str:
    return postgres.create_database()


def of_psycopg(url: str, **options: Any) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), **options)


@contextmanager
def keeping(url: str, **options: Any) -> Iterator[tuple[sa.Engine, KeptConnection]]:
    """An engine, and a connection of it that is kept in the block."""
    made = of_psycopg(url, **options)
    writer = KeptConnection(made)
    try:
        yield made, writer
    finally:
        writer.close()
        made.dispose()


def execute(writer: KeptConnection, *statements: str) -> None:
    with writer.turn() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def backend_of(writer: KeptConnection) -> int:
    with writer.turn() as connection:
        return backend(connection)


def backend(connection: sa.Connection) -> int:
    return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def backends(server: sa.Engine) -> list[int]:
    """The connections to the server's database, but for the one that asks."""
    with server.connect() as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        found = connection.exec_driver_sql(f"{query} AND pid <> pg_backend_pid()")
        return [pid for (pid,) in found]


@pytest.mark.parametrize(("size", "kept"), [(4, 0), (5, 1)])
def test_a_pool_of_five_spares_one(size: int, kept: int, server_url: str) -> None:
    some = of_psycopg(server_url, pool_size=size, max_overflow=0, pool_timeout=30)
    with launched(server_url, system_database_engine=some):
        runs = [run_id() for _ in range(8)]
        for handle in [begin(one_call, run) for run in runs]:
            result(handle)
        assert [entries(run) for run in runs] == [["work#1/a#1"]] * 8
        statement = recording._kept[launched_database().system]
        assert (statement.kept is not None) == bool(kept)
        if statement.kept is not None:
            assert backend_of(statement.kept) == backend_of(statement.kept)
    assert some.pool.checkedout() == 0
    some.dispose()


def test_threads_do_not_wait_for_each_other(server_url: str) -> None:
    """The server carries out many transactions at a time."""
    with keeping(server_url) as (_, writer):
        with writer.turn() as first, ThreadPoolExecutor(1) as pool:
            kept = backend(first)
            assert pool.submit(backend_of, writer).result(60) != kept
        assert backend_of(writer) == kept


@pytest.mark.parametrize("asked", [True, False])
def test_a_server_that_has_ended_the_connection(
    asked: bool, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it is started again. A statement on it fails only if it was used just before."""
    if asked:
        monkeypatch.setattr(kept_connection, "_TRUSTED", 0.0)
    with keeping(server_url, pool_pre_ping=True) as (made, writer):
        first = backend_of(writer)
        with made.connect() as connection:
            connection.exec_driver_sql("SELECT pg_terminate_backend(%s, 60000)", (first,))
        if not asked:
            with pytest.raises(sa.exc.OperationalError):
                backend_of(writer)
        assert backend_of(writer) != first


def test_a_session_in_which_something_failed_is_not_used_again(server_url: str) -> None:
    """It may be read-only, and no other."""
    insert = "INSERT INTO a VALUES (1)"
    with keeping(server_url, pool_size=1, max_overflow=0) as (_, writer):
        execute(writer, "CREATE TABLE a (n INTEGER)", "SET default_transaction_read_only = on")
        with pytest.raises(sa.exc.InternalError, match="read-only"):
            execute(writer, insert)
        execute(writer, insert)


@pytest.mark.parametrize(("limit", "asks"), [("_TRUSTED", True), ("_WARM", False)])
def test_one_that_was_not_used_for_long(
    limit: str, asks: bool, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool asks for it; what may be dead, as behind a firewall, is closed without a word."""
    with keeping(server_url, pool_size=1, max_overflow=0, pool_pre_ping=True) as (_, writer):
        first = backend_of(writer)
        monkeypatch.setattr(kept_connection, "_TRUSTED", 0.0)
        monkeypatch.setattr(kept_connection, limit, 0.0)
        assert (backend_of(writer) == first) == asks


def test_a_run_goes_on_when_the_server_has_ended_the_connection(server_url: str) -> None:
    server = of_psycopg(server_url, poolclass=sa.NullPool)

    def plan() -> Any:
        with joined("work") as scope:
            work.call(scope, "a")
            there = backends(server)
            with server.connect() as connection:
                for pid in there:
                    connection.exec_driver_sql("SELECT pg_terminate_backend(%s, 60000)", (pid,))
            return work.call(scope, "b")

    with launched(server_url):
        finish(plan, run := run_id())
        assert entries(run) == ["work#1/a#1", "work#1/b#1"]
    assert work.done == {"a": 1, "b": 1}


def test_what_was_not_undone_on_the_server_is_not_committed(server_url: str) -> None:
    with keeping(server_url) as (_, writer):
        execute(writer, "CREATE TABLE a (n INTEGER)")

        def fail() -> None:
            with writer.turn() as connection:
                connection.exec_driver_sql("BEGIN")
                connection.exec_driver_sql("INSERT INTO a VALUES (1)")
                raise AssertionError

        with pytest.raises(AssertionError):
            fail()
        with writer.turn() as connection:
            connection.exec_driver_sql("INSERT INTO a VALUES (2)")
            assert connection.exec_driver_sql("SELECT n FROM a").all() == [(2,)]


def test_a_transaction_that_was_begun_is_committed(server_url: str) -> None:
    """What is said to be written is."""
    with keeping(server_url) as (made, writer):
        execute(writer, "CREATE TABLE a (n INTEGER)")
        execute(writer, "BEGIN", "INSERT INTO a VALUES (1)")
        with made.connect() as connection:
            assert connection.exec_driver_sql("SELECT n FROM a").all() == [(1,)]


def test_dbos_gets_no_connection_in_another_mode(server_url: str) -> None:
    """Nor the one that was kept: of the pool each begins a transaction."""
    with keeping(server_url, pool_size=1, max_overflow=0) as (made, writer):
        execute(writer, "CREATE TABLE a (n INTEGER)")
        writer.close()
        with made.connect() as connection:
            connection.exec_driver_sql("INSERT INTO a VALUES (1)")
            connection.rollback()
            assert connection.exec_driver_sql("SELECT n FROM a").all() == []


def test_a_destroyed_dbos_leaves_no_connection_to_the_server(server_url: str) -> None:
    server = of_psycopg(server_url, poolclass=sa.NullPool)
    with launched(server_url):
        finish(one_call, run_id())
        assert backends(server)
    until(lambda: not backends(server))  # they end when it has seen that nobody is there


def record_with(url: str, hear: Callable[[Any, str], None]) -> None:
    """Record a step that nobody has the run of; `hear` is called before it is inserted."""

    def before(connection: Any, statement: str) -> None:
        if statement.startswith("INSERT INTO") and "operation_outputs" in statement:
            hear(connection, statement)

    with heard(before):
        system = created(url)
        try:
            record(system, StepRow("no run", "nobody", 1, "a#1", "{}", "portable_json", 1, 2))
        finally:
            system.destroy()


def test_an_interrupt_while_a_server_does_not_answer(server_url: str) -> None:
    """The driver has given the connection up. Whoever stops the program stops it."""

    def interrupted(connection: Any, _: str) -> None:
        connection.pgconn.finish()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_with(server_url, interrupted)


def test_a_record_that_was_cancelled_is_not_tried_again(server_url: str) -> None:
    """As DBOS does it: who has cancelled the statement would have to do it again."""
    tried = []

    def cancelled(_: Any, statement: str) -> None:
        tried.append(statement)
        raise psycopg.errors.QueryCanceled("canceling statement due to statement timeout")

    with pytest.raises(sa.exc.OperationalError, match="statement timeout"):
        record_with(server_url, cancelled)
    assert len(tried) == 1
