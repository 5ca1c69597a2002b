"""Taking over from workers that are gone: their rows are there, and no process beats them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from crewai.flow.flow import Flow, start
from dbos import DBOS, SetWorkflowID
from typer.testing import CliRunner

from crewai_dbos import DBOSFlow, Worker
from crewai_dbos._dbos_seam.database import Database, launched_database
from crewai_dbos._fleet import membership
from crewai_dbos._fleet.leases import Holder, Leases
from crewai_dbos._fleet.table import workers
from crewai_dbos.cli import app
from crewai_dbos.control import Control
from people.conftest import until
from support.databases import sqlite_here
from support.launching import QUICK
from support.names import unique

DAY_MS = 24 * 60 * 60 * 1000


class Quick(Flow[dict[str, Any]]):
    @start()
    def only(self) -> str:
        return "done"


class Setting:
    def __init__(self, url: str) -> None:
        self.control = Control(url)
        self.database: Database = launched_database()
        self._flow = DBOSFlow(flow_name=unique("quick"), orig_flow=Quick)

    def gone(
        self, executor_id: str, *, version: str | None = None, released: bool = False
    ) -> Holder:
        """A worker has a lease, and is gone, perhaps in good order."""
        version = version or DBOS.application_version
        holder = Holder(executor_id, executor_id, "host:1", "tests", version)
        leases = Leases(self.database, holder, 1)
        assert leases.take({}) is None
        if released:
            leases.release()
        return holder

    def run_under(self, executor_id: str, **values: Any) -> str:
        """A run that is PENDING in another process."""
        run_id = unique("run")
        with SetWorkflowID(run_id):
            self._flow.start(inputs={}, queue="nobody")
        runs = self.database.runs
        told = {
            "status": "PENDING",
            "executor_id": executor_id,
            "queue_name": None,
            "application_version": DBOS.application_version,
            **values,
        }
        with self.database.writing() as connection:
            connection.execute(sa.update(runs).where(runs.c.workflow_uuid == run_id).values(told))
        return run_id

    def state(self, run_id: str) -> str:
        return self.control.run(run_id).state

    def rows(self) -> set[str]:
        table = workers(self.database.schema)
        with self.database.engine.connect() as connection:
            return set(connection.execute(sa.select(table.c.executor_id)).scalars())


@contextmanager
def a_worker(url: str) -> Iterator[Setting]:
    DBOS(config={**QUICK, "system_database_url": url, "log_level": "CRITICAL"})
    DBOS.listen_queues(["other"])
    with Worker(lease=1, grace=0):
        DBOS.register_queue("nobody")
        setting = Setting(url)
        yield setting
        setting.control.close()


def test_its_runs_go_on_and_its_row_stays_for_a_day(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "_CLEARED_AFTER", 0.0)  # an hour
    with a_worker(database_url) as setting:
        old = setting.run_under("gone", recovery_attempts=3)
        other = setting.run_under("gone", application_version="v0")
        setting.gone("gone")
        setting.gone("gone", version="v0")
        unknown = setting.run_under("a program without a Worker")
        until(lambda: setting.state(old) == "done")
        runs = setting.database.runs
        with setting.database.engine.connect() as connection:
            query = sa.select(runs.c.recovery_attempts).where(runs.c.workflow_uuid == old)
            assert connection.execute(query).scalar_one() == 4
        again = setting.run_under("gone")  # it woke up, and took one
        until(lambda: setting.state(again) == "done")
        assert "gone" in setting.rows()
        assert (setting.state(other), setting.state(unknown)) == ("stranded", "running")
        table = workers(setting.database.schema)
        mine = sa.update(table).where(table.c.executor_id == "gone", table.c.version != "v0")
        with setting.database.writing() as connection:
            connection.execute(mine.values(beat_ms=table.c.beat_ms - DAY_MS - 60_000))
        until(lambda: len(setting.control.workers()) == 2)
        assert setting.state(other) == "stranded"


def test_a_run_says_from_whom_it_was_taken_over(database_url: str) -> None:
    with a_worker(database_url) as setting:
        setting.gone("dead")
        run_id = setting.run_under("dead", attributes={"own": 1})
        plain = setting.run_under("dead", attributes=None)
        until(lambda: {setting.state(run_id), setting.state(plain)} == {"done"})
        for each in (run_id, plain):
            shown = setting.control.run(each)
            assert shown.taken_from == "dead"
            assert shown.taken_at is not None
            assert -1 < (datetime.now(timezone.utc) - shown.taken_at).total_seconds() < 60
        status = DBOS.get_workflow_status(run_id)
        assert status is not None
        assert (status.attributes or {})["own"] == 1, "the user's own are kept"
        told = CliRunner().invoke(app, ["runs", "show", run_id, "--db-url", database_url])
        assert "taken over  from dead at 20" in told.stdout
        fork = setting.control.fork(run_id)
        assert setting.control.run(fork).taken_from is None


@sqlite_here("database_url")
def test_who_has_died_and_who_was_stopped_are_counted_apart(database_url: str) -> None:
    with a_worker(database_url) as setting:
        worker = membership.member()
        assert worker is not None
        assert worker.taken_over == {"lease_expired": 0, "handed_over": 0}
        runs = [setting.run_under(name) for name in ("killed", "stopped", "stopped")]
        setting.gone("killed")
        setting.gone("stopped", released=True)
        until(lambda: [setting.state(each) for each in runs] == ["done"] * 3)
        until(lambda: worker.taken_over == {"lease_expired": 1, "handed_over": 2})


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_rows_that_somebody_has_locked_stop_nothing_else(database_url: str) -> None:
    with a_worker(database_url) as setting:
        runs, table = setting.database.runs, workers(setting.database.schema)
        for name in ("a", "b", "c"):
            setting.gone(name)
        with setting.database.engine.begin() as connection:
            locked = setting.run_under("b")
            mine = sa.select(runs).where(runs.c.workflow_uuid == locked)
            connection.execute(mine.with_for_update())
            lease = sa.select(table).where(table.c.executor_id == "a")
            connection.execute(lease.with_for_update())
            held = setting.run_under("a")
            free = [setting.run_under("b"), setting.run_under("c")]
            until(lambda: [setting.state(each) for each in free] == ["done", "done"])
            assert {setting.state(locked), setting.state(held)} == {"interrupted"}
        until(lambda: [setting.state(each) for each in (locked, held)] == ["done", "done"])


def test_a_lease_that_is_beaten_meanwhile_keeps_its_runs(database_url: str) -> None:
    with a_worker(database_url) as setting:
        holder = Holder("w2", "t", "host:1", "tests", DBOS.application_version)
        theirs = Leases(setting.database, holder, 300)
        theirs.take({})
        ours = Leases(setting.database, Holder("w1", "t", "host:1", *_of(holder)), 1)
        run_id = setting.run_under("w2")
        (seen,) = [each for each in ours.of_peers() if each.holder == holder]
        assert theirs.beat({})
        assert ours.take_over(seen) == []
        assert setting.state(run_id) == "running"
        (seen,) = [each for each in ours.of_peers() if each.holder == holder]
        assert ours.take_over(seen) == [run_id]
        assert ours.take_over(seen) == []


def test_leases_that_were_given_up_are_looked_at_if_runs_are_left(database_url: str) -> None:
    with a_worker(database_url) as setting:
        for name in ("alive", "stopped", "stopped at work"):
            theirs = Leases(setting.database, Holder(name, name, "host:1", "tests", "v0"), 300)
            theirs.take({"flow": ["research"]})
            if name != "alive":
                theirs.release()
        setting.run_under("stopped at work", application_version="v0")
        setting.run_under("stopped")  # of another version
        ours = Leases(setting.database, Holder("w1", "t", "host:1", "tests", "v0"), 300)
        assert {each.holder.executor_id: each.definitions for each in ours.of_peers()} == {
            "alive": {"flow": ["research"]},
            "stopped at work": {},
        }


def _of(holder: Holder) -> tuple[str, str]:
    return holder.application, holder.version
