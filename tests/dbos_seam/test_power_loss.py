"""A machine with a SQLite database loses its power right after a call was recorded."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS, DBOSClient

from crewai_dbos._dbos_seam.instance import engine
from crewai_dbos._journal.joining import joined
from support.launching import launched
from support.new import said_by
from support.runs import Work, entries, finish, result, run_id

work = Work()


class Disk:
    """The files of a database, and what of them is on the disk.

    A deleted file is gone from the disk some seconds later, so each rollback journal is kept under
    another name. What is written into it afterwards is on the disk, where SQLite waits for that.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._journal = file.with_name(f"{file.name}-journal")
        self._kept = file.with_name("kept-journal")
        self._lock = threading.Lock()  # DBOS looks at its queues on other threads

    def watch(self, engine: sa.Engine) -> None:
        sa.event.listen(engine, "commit", self._keep)

    def _keep(self, _: Any) -> None:
        with self._lock:
            if self._journal.exists():
                self._kept.unlink(missing_ok=True)
                os.link(self._journal, self._kept)

    def after_power_loss(self, folder: Path) -> Path:
        """The database as it is found when the power is back."""
        assert self._kept.exists()
        folder.mkdir()
        found = folder / self._file.name
        with self._lock:
            shutil.copy(self._file, found)
            shutil.copy(self._kept, folder / self._journal.name)
        return found


@pytest.fixture
def disk(tmp_path: Path, url: str) -> Iterator[Disk]:
    work.forget()
    disk = Disk(tmp_path / "dbos.sqlite")
    with launched(url):
        disk.watch(engine())
        yield disk


def test_a_call_that_was_recorded_is_not_made_again(disk: Disk, tmp_path: Path) -> None:
    found: list[Path] = []

    def plan() -> Any:
        with joined("work") as scope:
            first = work.call(scope, "a")
            if not found:
                found.append(disk.after_power_loss(tmp_path / "after"))
            return [first, work.call(scope, "b")]

    run = run_id()
    assert finish(plan, run) == ["a 1", "b 1"]
    DBOS.destroy()
    with launched(f"sqlite:///{found[0]}"):
        assert result(DBOS.retrieve_workflow(run)) == ["a 1", "b 2"]
    assert work.done == {"a": 1, "b": 2}


def test_a_run_that_was_begun_has_begun(disk: Disk, tmp_path: Path) -> None:
    run = run_id()
    finish(lambda: disk.after_power_loss(tmp_path / "after") and None, run)
    assert runs_in(tmp_path / "after" / "dbos.sqlite") == [(run, "PENDING")]


def test_what_another_process_commits_is_there(disk: Disk, url: str, tmp_path: Path) -> None:
    run = run_id()
    finish(lambda: None, run)
    client = DBOSClient(system_database_url=url)
    disk.watch(client._sys_db.engine)
    client.delete_workflow(run)
    after = disk.after_power_loss(tmp_path / "after")
    client.destroy()
    assert runs_in(after) == []


def runs_in(file: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(file)) as opened:
        return opened.execute("SELECT workflow_uuid, status FROM workflow_status").fetchall()


@pytest.mark.parametrize("mode", ["wal", "truncate"])
def test_another_journal_that_was_chosen_stays(url: str, tmp_path: Path, mode: str) -> None:
    file = tmp_path / "dbos.sqlite"
    with closing(sqlite3.connect(file)) as opened:
        opened.execute(f"PRAGMA journal_mode={mode}")
    chosen = sa.create_engine(url)
    sa.event.listen(chosen, "connect", lambda c, _: c.execute(f"PRAGMA journal_mode={mode}"))
    with launched(url, system_database_engine=chosen):
        run = run_id()

        def plan() -> Any:
            with joined("work") as scope:
                return work.call(scope, mode)

        finish(plan, run)
        assert entries(run) == [f"work#1/{mode}#1"]
        with engine().connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == mode
    chosen.dispose()


LAUNCHED_FIRST = """
from crewai import Agent, Task
from crewai.llms.base_llm import BaseLLM
from dbos import DBOS

class Answers(BaseLLM):
    def call(self, *args, **kwargs):
        return "done"

DBOS(config={"name": "late", "system_database_url": "sqlite:///late.sqlite", "log_level": "ERROR"})
DBOS.launch()

from crewai_dbos import DBOSAgent
from crewai_dbos._dbos_seam.instance import engine

clerk = Agent(role="Clerk", goal="Work", backstory="Diligent.", llm=Answers(model="own"))
durable = DBOSAgent(agent_name="clerk", orig_agent=clerk)
durable.execute_task(Task(description="Do it.", expected_output="A text."))
with engine().connect() as connection:
    print(connection.exec_driver_sql("PRAGMA journal_mode").scalar())
DBOS.destroy()
"""


@pytest.mark.crash
def test_a_dbos_that_was_launched_before_the_package_was_imported(tmp_path: Path) -> None:
    [(output, errors)] = said_by([LAUNCHED_FIRST], tmp_path)
    assert output.splitlines()[-1:] == ["persist"], errors
