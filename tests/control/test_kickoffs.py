"""Runs of what a worker has, kicked off by name: by a control, and over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from crewai.flow.flow import Flow, start
from dbos import DBOS, SetWorkflowID
from fastapi import FastAPI
from starlette.testclient import TestClient
from typer.testing import CliRunner

from crewai_dbos import DBOSFlow, Worker, ask
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._fleet.leases import Holder, Leases
from crewai_dbos.cli import app
from crewai_dbos.control import Control, Reply
from crewai_dbos.encryption import EncryptedSerializer, generate_key
from crewai_dbos.errors import (
    DefinitionError,
    MissingDefinitionError,
    QueueNotFoundError,
    RunConflictError,
    SealedError,
)
from crewai_dbos.http import router
from people.conftest import until
from support.launching import QUICK
from support.names import unique

TOKEN = "kq3vN1mU8sT5xY2zB7aC"


class Greet(Flow[dict[str, Any]]):
    @start()
    def greet(self) -> str:
        return f"Hello {self.state['who']}"


@contextmanager
def working(url: str, **config: Any) -> Iterator[tuple[DBOSFlow[Any], DBOSFlow[Any]]]:
    """A worker with two flows, of which one redacts."""
    flow = DBOSFlow(flow_name=unique("greet"), orig_flow=Greet)
    redacting = DBOSFlow(
        flow_name=unique("redacting"), orig_flow=Greet, redact=lambda text: text.upper()
    )
    DBOS(config={**QUICK, "system_database_url": url, "log_level": "CRITICAL", **config})
    with Worker(lease=600, grace=0):
        DBOS.register_queue("jobs", polling_interval_sec=0.05)
        yield flow, redacting


def result(control: Control, run_id: str) -> Any:
    until(lambda: control.run(run_id).state == "done")
    return control.result_of(run_id)


def test_a_run_of_what_a_worker_has(database_url: str) -> None:
    with working(database_url) as (flow, redacting), Control(database_url) as control:
        name = flow.flow_name
        assert {name, redacting.flow_name} <= set(control.definitions())
        run_id = unique("run")
        for _ in range(2):  # asked for again, it is one run
            assert control.kickoff(name, {"who": "ann"}, run_id=run_id, queue="jobs") == run_id
        assert result(control, run_id) == "Hello ann"
        run = control.run(run_id)
        assert (run.definition, run.kind) == (name, "flow")
        assert (run.version, run.executor) == (
            DBOS.application_version,
            control.workers()[0].executor_id,
        )
        # It is the run that a kickoff of the code would have made.
        with SetWorkflowID(run_id):
            assert flow.kickoff({"who": "ann"}) == "Hello ann"
        assert result(control, control.kickoff(name, {"who": "bob"})) == "Hello bob"

        with pytest.raises(RunConflictError):
            control.kickoff(name, {"who": "bob"}, run_id=run_id)
        with pytest.raises(MissingDefinitionError, match="nobody"):
            control.kickoff("nobody")
        with pytest.raises(QueueNotFoundError):
            control.kickoff(name, {"who": "ann"}, queue="none")
        DBOS.register_queue("parts", partition_concurrency=1)
        with pytest.raises(DefinitionError, match="partitions"):
            control.kickoff(name, {"who": "ann"}, queue="parts")
        # What is stored would not have gone through it.
        with pytest.raises(DefinitionError, match="redact="):
            control.kickoff(redacting.flow_name, {"who": "ann"})

        holder = Holder("other", "other", "host:1", "tests", DBOS.application_version)
        peer = Leases(launched_database(), holder, 30)
        old = unique("old")
        assert peer.take({"flow": [old]}) is None  # as earlier versions write it
        with pytest.raises(DefinitionError, match="older"):
            control.kickoff(old)
        peer.release()
        assert old not in control.definitions()
        with pytest.raises(MissingDefinitionError):
            control.kickoff(old)


def test_on_the_command_line(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    file = tmp_path / "inputs.json"
    file.write_text('{"who": "ann"}')

    def kickoff(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["runs", "kickoff", *arguments, "--db-url", url])

    with working(url) as (flow, _), Control(url) as control:
        name = flow.flow_name
        begun = kickoff(name, "--inputs", f"@{file}", "--id", "ann", "--queue", "jobs")
        assert (begun.exit_code, begun.stdout) == (0, "ann\n")
        assert result(control, "ann") == "Hello ann"
        begun = kickoff(name, "--inputs", '{"who": "bob"}', "--json")
        assert result(control, json.loads(begun.stdout)["run_id"]) == "Hello bob"

        for arguments, code, why in (
            ([name, "--inputs", '{"who": "eve"}', "--id", "ann"], 1, "with other inputs"),
            (["nobody"], 1, f"no live worker has a crew or a flow 'nobody'. there are .*{name}"),
            ([name, "--queue", "none"], 2, "no queue 'none'"),
            ([name, "--inputs", "[1]"], 2, "--inputs is no json object"),
            ([name, "--inputs", "{who: ann}"], 2, "--inputs is not json"),
            ([name, "--inputs", "@none.json"], 2, "none.json can't be read"),
        ):
            refused = kickoff(*arguments)
            assert (refused.exit_code, refused.stdout) == (code, ""), refused.output
            assert re.search(why, refused.stderr.lower()), refused.stderr
    refused = kickoff(name)
    assert refused.exit_code == 1
    assert "crewai-dbos workers" in refused.stderr


def test_over_http(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    with working(url) as (flow, redacting), Control(url) as control:
        served = FastAPI()
        served.include_router(router(control, definitions="workers", tokens=[TOKEN]))
        client = TestClient(served, headers={"Authorization": f"Bearer {TOKEN}"})
        body = {"inputs": {"who": "ann"}, "definition": flow.flow_name, "kickoff_id": "k1"}
        assert client.post("/kickoff", json=body).json() == {"kickoff_id": "k1"}
        assert result(control, "k1") == "Hello ann"
        body = {"inputs": {"who": "bob"}, "definition": flow.flow_name, "run_id": "k2"}
        assert client.post("/runs", json=body).status_code == 202
        assert result(control, "k2") == "Hello bob"
        assert client.post("/runs", json={**body, "inputs": {"who": "eve"}}).status_code == 409
        for name, status in ((redacting.flow_name, 422), ("nobody", 404)):
            refused = client.post("/kickoff", json={"inputs": {}, "definition": name})
            assert refused.status_code == status, refused.text
        asked = client.get("/inputs", params={"definition": flow.flow_name})
        assert (asked.status_code, asked.json()["type"]) == (501, "urn:crewai-dbos:no-inputs")
    with Control(url) as control:  # the worker is gone
        served = FastAPI()
        served.include_router(router(control, definitions="workers", tokens=[TOKEN]))
        client = TestClient(served, headers={"Authorization": f"Bearer {TOKEN}"})
        assert client.post("/runs", json={**body, "run_id": "k3"}).status_code == 404


def test_the_queue_of_kickoffs_that_name_none(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/dbos.sqlite"

    def queue_of(client: TestClient, path: str, **body: Any) -> str | None:
        begun = client.post(path, json={"inputs": {"who": "ann"}, **body}).json()
        run = DBOS.retrieve_workflow(begun.get("run_id") or begun["kickoff_id"])
        assert run.get_result() == "Hello ann"
        return run.get_status().queue_name

    with working(url) as (flow, _), Control(url) as control:
        DBOS.register_queue("night", polling_interval_sec=0.05)
        name = flow.flow_name
        for definitions in ("workers", [flow]):
            served = FastAPI()
            served.include_router(
                router(control, definitions=definitions, queue="night", tokens=[TOKEN])
            )
            client = TestClient(served, headers={"Authorization": f"Bearer {TOKEN}"})
            assert queue_of(client, "/kickoff", definition=name) == "night"
            assert queue_of(client, "/runs", definition=name) == "night"
            assert queue_of(client, "/runs", definition=name, queue="jobs") == "jobs"

        queues = []

        def ask_the_application(server: uvicorn.Server) -> None:
            client = TestClient(
                server.config.app, base_url="http://localhost", client=("127.0.0.1", 50000)
            )
            queues.append(queue_of(client, "/api/kickoff", definition=name))

        monkeypatch.setattr(uvicorn.Server, "run", ask_the_application)
        served_by = CliRunner().invoke(app, ["serve", "--db-url", url, "--queue", "night"])
        assert (served_by.exit_code, queues) == (0, ["night"]), served_by.output


def test_an_application_that_encrypts(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    key = EncryptedSerializer({"k": generate_key()})
    with working(url, serializer=key) as (flow, _):
        with Control(url, serializer=key) as control:
            run_id = control.kickoff(flow.flow_name, {"who": "a secret person"})
            assert result(control, run_id) == "Hello a secret person"
            again = control.kickoff(flow.flow_name, {"who": "a secret person"}, run_id=run_id)
            assert again == run_id
        with Control(url) as control, pytest.raises(SealedError, match="serializer="):
            control.kickoff(flow.flow_name, {"who": "a secret person"})
    for file in tmp_path.iterdir():
        assert b"a secret person" not in file.read_bytes()


class Asks(Flow[dict[str, Any]]):
    @start()
    def only(self) -> str:
        return f"It is {ask('Which?')}"


def test_keys_of_an_application_that_does_not_encrypt(tmp_path: Any) -> None:
    """Whoever has some, for another application: it is answered as this one can read."""
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    asks = DBOSFlow(flow_name=unique("asks"), orig_flow=Asks)
    key = EncryptedSerializer({"k": generate_key()})
    with working(url) as (flow, _), Control(url, serializer=key) as control:
        assert result(control, control.kickoff(flow.flow_name, {"who": "ann"})) == "Hello ann"
        answered, cancelled = asks.start(), asks.start()
        for run in (answered, cancelled):
            until(lambda: control.requests(run_id=run.workflow_id))  # noqa: B023
        (request,) = control.requests(run_id=answered.workflow_id)
        control.answer(request.request_id, Reply("blue"))
        assert result(control, answered.workflow_id) == "It is blue"
        control.cancel(cancelled.workflow_id, reason="No more.", by="ann")
        with Control(url) as plain:
            assert "No more." in (plain.run(cancelled.workflow_id).reason or "")


@DBOS.workflow(name="kickoffs.own")
def own(what: str) -> str:
    return what


def test_an_id_that_is_taken(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    with working(url) as (flow, _), Control(url) as control:
        name = flow.flow_name

        async def begun_by_async_code() -> Any:
            with SetWorkflowID("async"):
                return await flow.kickoff_async({"who": "ann"})

        assert asyncio.run(begun_by_async_code()) == "Hello ann"
        assert control.kickoff(name, {"who": "ann"}, run_id="async") == "async"
        with SetWorkflowID("own"):
            own("mine")
        for run_id in ("async", "own"):
            with pytest.raises(RunConflictError, match="that of another run"):
                control.kickoff(name, {"who": "bob"}, run_id=run_id)
        served = FastAPI()
        served.include_router(router(control, definitions="workers", tokens=[TOKEN]))
        client = TestClient(served, headers={"Authorization": f"Bearer {TOKEN}"})
        body = {"definition": name, "inputs": {"who": "ann"}, "run_id": "own"}
        assert client.post("/runs", json=body).status_code == 409
        told = CliRunner().invoke(app, ["runs", "kickoff", name, "--id", "own", "--db-url", url])
        assert (told.exit_code, "that of another run" in told.output) == (1, True)
