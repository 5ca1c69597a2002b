"""The workers on a database, and what their leases say of the runs under them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from crewai.flow.flow import Flow, start
from dbos import DBOS, SetWorkflowID
from typer.testing import CliRunner

from crewai_dbos import DBOSFlow, Worker
from crewai_dbos._dbos_seam import claiming
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._fleet.leases import Holder, Leases
from crewai_dbos._fleet.table import workers
from crewai_dbos.cli import app
from crewai_dbos.control import Control
from support.databases import sqlite_here
from support.launching import QUICK
from support.names import unique

ABOVE_SQL = sqlite_here("database_url")


class Quick(Flow[dict[str, Any]]):
    @start()
    def only(self) -> str:
        return "done"


class Setting:
    def __init__(self, url: str, worker: Worker, flow: Any) -> None:
        self.url, self.worker, self.flow = url, worker, flow
        self._database = launched_database()

    def peer(self, executor_id: str, has: list[str], *, silent: float = 0.0) -> None:
        """Another worker has a lease, and has said nothing for so many seconds."""
        name, version = "tests", DBOS.application_version
        holder = Holder(executor_id, executor_id, "host:1", name, version)
        leases = Leases(self._database, holder, 30)
        assert leases.take({"flow": has}) is None
        table = workers(self._database.schema)
        mine = sa.update(table).where(table.c.executor_id == executor_id)
        with self._database.writing() as connection:
            connection.execute(mine.values(beat_ms=table.c.beat_ms - int(silent * 1000)))

    def leave(self, executor_id: str) -> None:
        """A process has the lease no more."""
        table = workers(self._database.schema)
        with self._database.writing() as connection:
            connection.execute(sa.delete(table).where(table.c.executor_id == executor_id))

    def run_under(self, executor_id: str) -> str:
        """A run that is PENDING in another process."""
        run_id = unique("run")
        with SetWorkflowID(run_id):
            self.flow.start(inputs={}, queue="nobody")
        runs = self._database.runs
        with self._database.writing() as connection:
            connection.execute(
                sa.update(runs)
                .where(runs.c.workflow_uuid == run_id)
                .values(
                    status="PENDING",
                    executor_id=executor_id,
                    application_version=DBOS.application_version,
                )
            )
        return run_id


@contextmanager
def at_work(database_url: str) -> Iterator[Setting]:
    flow = DBOSFlow(flow_name=unique("quick"), orig_flow=Quick)
    DBOS(config={**QUICK, "system_database_url": database_url, "log_level": "CRITICAL"})
    DBOS.listen_queues(["other"])
    with Worker(lease=600, grace=0) as worker:
        DBOS.register_queue("nobody")
        yield Setting(database_url, worker, flow)


@pytest.fixture
def setting(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    """A worker that takes no runs, and does not say so: it could."""
    monkeypatch.setattr(claiming, "queues", lambda: None)
    with at_work(database_url) as setting:
        yield setting


@ABOVE_SQL
def test_a_worker_of_other_queues_takes_no_run_from_this_one(database_url: str) -> None:
    with at_work(database_url) as setting, Control(setting.url) as control:
        run = setting.flow.start(inputs={}, queue="nobody")
        shown = control.run(run.workflow_id)
        assert shown.state == "queued"
        assert shown.reason == "no worker that has it takes runs from the queue 'nobody'"
        setting.peer("here", [setting.flow.flow_name])
        assert control.run(run.workflow_id).reason is None


def test_workers_and_the_runs_under_them(setting: Setting) -> None:
    with Control(setting.url) as control:
        (mine,) = control.workers()
        assert mine.executor_id == setting.worker.executor_id
        assert mine.executor_id.startswith(f"{mine.process}:")
        assert (mine.alive, mine.lease, mine.runs) == (True, 600.0, 0)
        assert (mine.application, mine.version) == ("tests", DBOS.application_version)
        assert setting.flow.flow_name in mine.definitions["flow"]
        assert 0 <= (mine.age or 0) < 600

        setting.peer("gone", [setting.flow.flow_name], silent=31)
        setting.peer("here", ["another"])
        left, held = setting.run_under("gone"), setting.run_under("here")
        unknown = setting.run_under("a program without a Worker")
        found = {each.executor_id: each for each in control.workers()}
        assert {name: (each.alive, each.runs) for name, each in found.items()} == {
            mine.executor_id: (True, 0),
            "gone": (False, 1),
            "here": (True, 1),
        }
        assert 31 <= (found["gone"].age or 0) < 600

        states = {run.run_id: run.state for run in control.runs()}
        assert states == {left: "interrupted", held: "running", unknown: "running"}
        shown = control.run(left)
        assert shown.reason == "its worker gone (host:1) is gone; another goes on"
        assert [run.run_id for run in control.runs(state="interrupted")] == [left]
        assert {run.run_id for run in control.runs(state="running")} == {held, unknown}
        assert not control.stranded()


def test_runs_that_no_worker_can_go_on_with(setting: Setting) -> None:
    setting.peer("gone", [setting.flow.flow_name], silent=31)
    left = setting.run_under("gone")
    with SetWorkflowID(unique("queued")):
        setting.flow.start(inputs={}, queue="nobody")
    with Control(setting.url) as control:
        assert not control.stranded()
        setting.leave(setting.worker.executor_id)  # as if it had ended
        (found,) = control.stranded()
        assert found.run_id == left
        assert "is gone, and no other worker of version " in str(found.reason)
        setting.peer("here", ["another"])
        assert len(control.stranded()) == 2
        for run in control.stranded():
            assert f"that lives has the flow {setting.flow.flow_name!r}" in str(run.reason)


@ABOVE_SQL
def test_the_command(setting: Setting) -> None:
    def told(*options: str) -> dict[str, Any]:
        run = CliRunner().invoke(app, ["workers", "--db-url", setting.url, "--json", *options])
        assert run.exit_code == 0
        return {each["executor_id"]: each for each in json.loads(run.stdout)}

    setting.peer("ended", ["another"], silent=31)
    setting.peer("gone", ["another"], silent=31)
    setting.run_under("gone")
    assert set(told()) == {"gone", setting.worker.executor_id}, "alive, or with runs left"
    assert set(told("--all")) == {"ended", "gone", setting.worker.executor_id}
    assert told()["gone"]["alive"] is False
    assert told()["gone"]["definitions"] == {"flow": ["another"]}
    shown = CliRunner().invoke(app, ["workers", "--db-url", setting.url], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "gone" in shown.output
    assert "alive" in shown.output


@ABOVE_SQL
def test_the_command_where_all_have_ended(setting: Setting) -> None:
    setting.leave(setting.worker.executor_id)
    setting.peer("ended", ["another"], silent=31)
    shown = CliRunner().invoke(app, ["workers", "--db-url", setting.url])
    assert (shown.exit_code, "workers --all" in shown.output) == (0, True)
    assert "ended" in CliRunner().invoke(app, ["workers", "--db-url", setting.url, "--all"]).stdout


def test_the_command_where_there_are_none(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    DBOS(config={**QUICK, "system_database_url": url, "log_level": "CRITICAL"})
    DBOS.launch()
    DBOS.destroy()
    run = CliRunner().invoke(app, ["workers", "--db-url", url])
    assert (run.exit_code, "No worker has been here" in run.output) == (0, True)


def test_old_leases_of_every_version_are_cleared(setting: Setting) -> None:
    """Unless a run is left under one, which somebody may still take over."""
    day = 24 * 3600 * 1000
    run_id = setting.run_under("old-with-a-run")
    leases = {
        "old": DBOS.application_version,
        "old-of-another-version": "another",
        "old-with-a-run": DBOS.application_version,
        "new-of-another-version": "another",
    }
    database = launched_database()
    table = workers(database.schema)
    for executor_id, version in leases.items():
        holder = Holder(executor_id, executor_id, "host:1", "tests", version)
        assert Leases(database, holder, 30).take({}) is None
    with database.writing() as connection:
        old = sa.update(table).where(table.c.executor_id.like("old%"))
        connection.execute(old.values(beat_ms=-(table.c.beat_ms - 3 * day)))
    holder = Holder("mine", "mine", "host:1", "tests", DBOS.application_version)
    Leases(database, holder, 30).clear()
    with Control(setting.url) as control:
        left = {each.executor_id for each in control.workers()}
        assert set(leases) & left == {"old-with-a-run", "new-of-another-version"}
        control.cancel(run_id)


@ABOVE_SQL
def test_a_lease_row_of_another_release(setting: Setting) -> None:
    """Whatever its definitions are: it is shown, and ends nothing."""
    setting.peer("odd", [])
    database = launched_database()
    table = workers(database.schema)
    with Control(setting.url) as control:
        for text in ("[]", "null", '{"flow": 3, "x": ["y"]}'):
            with database.writing() as connection:
                mine = sa.update(table).where(table.c.executor_id == "odd")
                connection.execute(mine.values(definitions=text))
            found = {each.executor_id: each for each in control.workers()}
            assert "flow" not in found["odd"].definitions
