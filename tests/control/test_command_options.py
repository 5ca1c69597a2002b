"""What every command takes: a schema, the keys of an application that encrypts, first letters."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from crewai.flow.flow import Flow, start
from dbos import DBOS, SetWorkflowID
from typer.testing import CliRunner

from crewai_dbos import DBOSFlow, ask
from crewai_dbos.cli import app
from crewai_dbos.control import Control
from crewai_dbos.encryption import EncryptedSerializer, generate_key
from crewai_dbos.errors import UnknownRequest
from people.conftest import until
from support.databases import sqlite_here
from support.launching import launched
from support.names import unique


class Asks(Flow):
    @start()
    def only(self) -> str:
        return f"It is {ask('Which account?')}"


@pytest.mark.parametrize(
    ("command", "module", "said"),
    [
        (
            ["serve"],
            "uvicorn",
            "The page and the HTTP API need an extra: pip install 'crewai-dbos[cli,http]'",
        ),
        (
            ["crashtest", "app:crew"],
            "rich",
            "The crash test needs an extra: pip install 'crewai-dbos[cli,testing]'",
        ),
    ],
)
def test_without_its_extra_a_command_says_what_for(
    command: list[str], module: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    called = CliRunner().invoke(app, command)
    assert called.exit_code == 2
    assert called.output == f"{said}\n"


def test_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBOS_SYSTEM_DATABASE_URL", raising=False)

    def told() -> str:
        called = CliRunner().invoke(app, ["runs", "list"])
        assert called.exit_code == 2
        return called.output

    assert "Which database? --db-url sqlite:///app.sqlite names one" in told()
    with launched("sqlite:///my plants.sqlite"):
        pass
    (tmp_path / "photos.db").write_bytes(b"of plants")
    (tmp_path / "other.sqlite").touch()
    before = sorted(tmp_path.iterdir())
    assert "There is one in this folder: --db-url 'sqlite:///my plants.sqlite'." in told()
    assert sorted(tmp_path.iterdir()) == before
    with launched("sqlite:///second.db"):
        pass
    assert "--db-url sqlite:///app.sqlite names one" in told()


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_schema_of_its_own(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBOS_SYSTEM_DATABASE_URL", database_url)
    flow = DBOSFlow(flow_name=unique("schema"), orig_flow=Asks)
    with launched(database_url, dbos_system_schema="mine"):
        run = flow.start()
        with Control(database_url, schema="mine") as control:
            until(lambda: control.requests())
        called = CliRunner().invoke(app, ["--schema", "mine", "runs", "show", run.workflow_id])
        assert called.exit_code == 0, called.output
        assert flow.flow_name in called.stdout
        missed = CliRunner().invoke(app, ["runs", "show", run.workflow_id])
        assert missed.exit_code > 0
        assert flow.flow_name not in missed.output
        monkeypatch.setenv("CREWAI_DBOS_SCHEMA", "mine")
        listed = CliRunner().invoke(app, ["inbox", "list"])
        assert "Which account?" in listed.stdout
        DBOS.cancel_workflow(run.workflow_id)


@sqlite_here("database_url")
def test_an_application_that_encrypts(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = generate_key()
    monkeypatch.setenv("DBOS_SYSTEM_DATABASE_URL", database_url)
    flow, run_id = DBOSFlow(flow_name=unique("sealed"), orig_flow=Asks), unique("sealed")
    serializer = EncryptedSerializer({"k": key})
    with launched(database_url, serializer=serializer):
        with SetWorkflowID(run_id):
            run = flow.start()
        with Control(database_url, serializer=serializer) as control:
            until(lambda: control.requests())
            (request,) = control.requests()
        monkeypatch.setenv("CREWAI_DBOS_KEYS", "nonsense")
        refused = CliRunner().invoke(app, ["inbox", "list"])
        assert refused.exit_code == 2
        assert "CREWAI_DBOS_KEYS is set, and can't be used" in refused.output
        monkeypatch.setenv("CREWAI_DBOS_KEYS", f"k={key}")
        listed = CliRunner().invoke(app, ["inbox", "list"])
        assert "Which account?" in listed.stdout
        reply = ["inbox", "reply", request.request_id, "12-A"]
        answered = CliRunner().invoke(app, reply)
        assert answered.exit_code == 0, answered.output
        assert run.get_result() == "It is 12-A"


@sqlite_here("database_url")
def test_letters_that_several_requests_begin_with(database_url: str) -> None:
    flow = DBOSFlow(flow_name=unique("twins"), orig_flow=Asks)
    with launched(database_url), Control(database_url) as control:
        runs = [flow.start() for _ in range(17)]
        until(lambda: len(control.requests()) == len(runs))
        firsts = [request.request_id[0] for request in control.requests()]
        shared = next(first for first in firsts if firsts.count(first) > 1)  # of 16 digits
        with pytest.raises(UnknownRequest, match="Give more letters") as several:
            control.request(shared)
        assert several.value.ambiguous
        with pytest.raises(UnknownRequest, match="There is no request 'zz'") as none:
            control.request("zz")
        assert not none.value.ambiguous
        for run in runs:
            DBOS.cancel_workflow(run.workflow_id)
