"""A fork that nobody is there to take says so, and goes on when a process is."""

from __future__ import annotations

from pathlib import Path

import pytest
from crewai.flow.flow import Flow, start
from dbos import DBOS
from typer.testing import CliRunner

from crewai_dbos import DBOSFlow
from crewai_dbos.cli import app
from crewai_dbos.control import Control
from support.launching import launched
from support.names import unique


class Look(Flow):
    @start()
    def look(self) -> str:
        return "green"


def test_a_fork_where_nobody_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    monkeypatch.setenv("DBOS_SYSTEM_DATABASE_URL", url)
    flow = DBOSFlow(flow_name=unique("garden"), orig_flow=Look)
    with launched(url):
        run = flow.start()
        assert run.get_result() == "green"
    told = CliRunner().invoke(app, ["runs", "fork", run.workflow_id, "--id", "again"])
    assert told.exit_code == 0, told.output
    said = f"Queued. No live worker has the flow '{flow.flow_name}'. Start one"
    assert said in " ".join(told.output.split())
    with Control(url) as control:
        (queued,) = control.runs(state="queued")
        assert "Start one (crewai-dbos worker MODULE), or any program" in str(queued.reason)
        with launched(url):  # which is no worker
            assert DBOS.retrieve_workflow("again").get_result() == "green"
        assert control.run("again").reason is None
