"""What a process records on SQLite goes through one connection."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS

from crewai_dbos._dbos_seam.instance import engine
from crewai_dbos._dbos_seam.single_writer import SingleWriter
from crewai_dbos._journal.joining import joined
from support.launching import launched
from support.runs import Work, begin, entries, finish, result, run_id

work = Work()


@pytest.fixture(autouse=True)
def forgetful() -> None:
    work.forget()


def one_call() -> Any:
    with joined("work") as scope:
        return work.call(scope, "a")


def test_runs_side_by_side_record_on_it(url: str) -> None:
    used: set[int] = set()

    def executed(_: Any, cursor: Any, statement: str, *__: Any) -> None:
        if "operation_outputs" in statement and statement.startswith("INSERT"):
            used.add(id(cursor.connection))

    with launched(url):
        sa.event.listen(engine(), "before_cursor_execute", executed)
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
    writer = SingleWriter(made)
    with writer.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE a (n INTEGER PRIMARY KEY)")

    def twice() -> None:
        with writer.begin() as connection:
            connection.exec_driver_sql("INSERT INTO a VALUES (1), (1)")

    with pytest.raises(sa.exc.IntegrityError):
        twice()
    with writer.begin() as connection:
        connection.exec_driver_sql("INSERT INTO a VALUES (2)")
    with made.connect() as connection:
        assert connection.exec_driver_sql("SELECT n FROM a").all() == [(2,)]
    made.dispose()


def test_threads_take_turns(url: str) -> None:
    """With the shortest patience of SQLite's: nobody finds the database locked."""
    made = sa.create_engine(url, connect_args={"timeout": 0})
    writer = SingleWriter(made)
    with writer.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE a (n INTEGER)")

    def insert(number: int) -> None:
        with writer.begin() as connection:
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
    memory = sa.create_engine(
        "sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False}
    )
    with launched(url, system_database_engine=memory):
        run = run_id()
        finish(one_call, run)
        assert entries(run) == ["work#1/a#1"]
        assert DBOS.retrieve_workflow(run).get_status().status == "SUCCESS"
    memory.dispose()
