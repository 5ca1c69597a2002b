"""The page and the API of an application that encrypts, where its keys are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from crewai_dbos.control import Control
from crewai_dbos.encryption import EncryptedSerializer, generate_key
from crewai_dbos.http import page, router
from front.conftest import approved, sending
from people.conftest import until
from support.launching import launched
from support.serving import Serve, serving


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, sending)


def test_what_can_be_seen_without_the_keys(serve: Serve, tmp_path: Path) -> None:
    serve()
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    with launched(url, serializer=EncryptedSerializer({"a": generate_key()})):
        run_id = approved().start({"topic": "otters"}).workflow_id
        with Control(url) as control:
            (request,) = until(lambda: control.requests(run_id=run_id))
            until(lambda: control.run(run_id).state == "waiting")
    with Control(url) as control:
        app = FastAPI()
        app.include_router(router(control, local_only=True), prefix="/api")
        app.include_router(page(control, local_only=True), prefix="/page")
        client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1))
        for path in ("", "requests", f"run/{run_id}", f"run/{run_id}?at=x", "workers"):
            assert client.get(f"/page/{path}").status_code == 200, path
        assert "1 request waits" in client.get("/page/").text
        listed = client.get("/page/requests").text
        assert "is encrypted" in listed
        assert request.request_id in listed
        assert request.question.message not in listed
        status = client.get(f"/api/status/{run_id}").json()
        assert status["requests"] == [request.request_id]
        assert client.get("/api/requests").status_code == 200
        for path in (f"/page/request/{request.request_id}", f"/api/requests/{request.request_id}"):
            sealed = client.get(path)
            assert sealed.status_code == 503
            assert "CREWAI_DBOS_KEYS" in sealed.text
        answer = client.post(f"/api/requests/{request.request_id}/answer", json={"is": "approve"})
        assert answer.status_code == 503
