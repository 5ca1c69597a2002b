"""A launch goes on with runs at once, and leaves those alone whose code comes later."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from crewai.flow.flow import Flow, start
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSFlow
from crewai_dbos._dbos_seam import claiming
from crewai_dbos._dbos_seam.database import launched_database
from people.conftest import until
from support.databases import sqlite_here
from support.launching import QUICK, go_on_as_dbos_does
from support.names import unique

SELDOM = 600.0
"""Seconds between DBOS's own looks here, in place of one."""


class Greet(Flow[dict[str, Any]]):
    @start()
    def greet(self) -> str:
        return f"hello {self.state['who']}"


class Setting:
    """A run in a database as a killed process leaves it, and launches on that."""

    def __init__(self, url: str) -> None:
        self._config: Any = {**QUICK, "system_database_url": url, "log_level": "CRITICAL"}
        self._config["application_version"] = "1"
        self.run = unique("run")
        flow = DBOSFlow(flow_name=unique("greet"), orig_flow=Greet)
        self.launch()
        with SetWorkflowID(self.run):
            flow.kickoff({"who": "Ann"})
        self.change(status="PENDING", output=None)

    def launch(self) -> None:
        dbos = DBOS(config=self._config)
        self.queue = dbos._registry.get_internal_queue()
        self._usual = getattr(self, "_usual", self.queue._polling_interval_sec)
        self.queue._polling_interval_sec = SELDOM
        DBOS.launch()

    def leave(self) -> None:
        """DBOS has one such queue for all that is launched in this process."""
        go_on_as_dbos_does()
        self.queue._polling_interval_sec = self._usual

    def change(self, **values: Any) -> None:
        runs = launched_database().runs
        with launched_database().engine.begin() as connection:
            kept = {name: value for name, value in values.items() if name in runs.c}
            change = sa.update(runs).where(runs.c.workflow_uuid == self.run).values(**kept)
            assert connection.execute(change).rowcount == 1

    @property
    def status(self) -> str:
        found = DBOS.get_workflow_status(self.run)
        assert found is not None
        return str(found.status)

    @property
    def has_slowed_down(self) -> bool:
        return bool(self.queue._polling_interval_sec == SELDOM)


@pytest.fixture
def setting(database_url: str) -> Any:
    made = Setting(database_url)
    try:
        yield made
    finally:
        DBOS.destroy()
        made.leave()


def test_a_run_goes_on_at_once(setting: Setting) -> None:
    DBOS.destroy()
    setting.launch()
    until(lambda: setting.status == "SUCCESS")
    until(lambda: setting.has_slowed_down)


@pytest.fixture
def before_dbos(monkeypatch: pytest.MonkeyPatch) -> None:
    """All looks are such as come before DBOS's own."""
    monkeypatch.setattr(claiming, "WITH_CARE", SELDOM / 2)
    monkeypatch.setattr(claiming, "SOON", 0.6)
    monkeypatch.setattr(claiming, "_early", None)  # and none of it afterwards


@DBOS.workflow(name="soon_after_launch.mine")
def mine(_: Any) -> str:
    return "done"


@pytest.mark.usefixtures("before_dbos")
def test_a_run_whose_code_comes_later_is_not_taken_before_dbos_would(setting: Setting) -> None:
    label = {"crewai_dbos.run": {"definition": unique("later"), "kind": "flow"}}
    setting.change(attributes=label)
    DBOS.destroy()
    setting.launch()
    until(lambda: setting.has_slowed_down)
    assert setting.status == "ENQUEUED"


@pytest.mark.usefixtures("before_dbos")
def test_a_workflow_that_is_registered_later_is_not_taken_before_dbos_would(
    setting: Setting,
) -> None:
    setting.change(name=unique("later"))
    DBOS.destroy()
    setting.launch()
    until(lambda: setting.has_slowed_down)
    assert setting.status == "ENQUEUED"


@sqlite_here("database_url")
@pytest.mark.usefixtures("before_dbos")
def test_a_workflow_of_the_users_is_not_taken_before_dbos_would(setting: Setting) -> None:
    """What its code needs may be made after the launch."""
    setting.change(name="soon_after_launch.mine")
    DBOS.destroy()
    setting.launch()
    until(lambda: setting.has_slowed_down)
    assert setting.status == "ENQUEUED"


@sqlite_here("database_url")
def test_a_workflow_of_the_users_is_taken_when_dbos_would(setting: Setting) -> None:
    """Not at DBOS's second look: here that comes in ten minutes."""
    setting.change(name="soon_after_launch.mine")
    DBOS.destroy()
    setting.launch()
    until(lambda: setting.status == "SUCCESS")


@sqlite_here("database_url")
def test_what_is_said_of_the_pace_after_a_launch_holds_for_the_next(setting: Setting) -> None:
    until(lambda: setting.has_slowed_down)
    setting.queue._polling_interval_sec = 0.5
    DBOS.destroy()
    DBOS(config=setting._config)
    DBOS.launch()
    assert setting.queue._polling_interval_sec == 0.5
    setting.queue._polling_interval_sec = SELDOM


@sqlite_here("database_url")
def test_two_launches_in_a_row_leave_dbos_its_own_pace(setting: Setting) -> None:
    DBOS.destroy()
    setting.launch()
    DBOS.destroy()
    DBOS(config=setting._config)
    DBOS.launch()
    until(lambda: setting.has_slowed_down)
    until(lambda: claiming._now() is None)
