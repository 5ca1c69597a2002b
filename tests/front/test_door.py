"""Who is let in, and what an answer does not tell."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from crewai_dbos.control import Control
from crewai_dbos.errors import DefinitionError
from crewai_dbos.http import User, router
from front.conftest import BEARER, TOKEN, client_of, crew

OTHER = "another-token-of-24-chars"


def test_a_token_is_needed(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(control, tokens=[OTHER, TOKEN])
    assert client.get("runs", headers=BEARER).status_code == 200
    assert client.get("runs", headers={"Authorization": f"bearer {OTHER}"}).status_code == 200
    compared: list[Any] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *two: compared.append(two) or real(*two))
    for given in ("", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}"):
        refused = client.get("runs", headers={"Authorization": given})
        assert refused.status_code == 401, given
        assert refused.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in refused.text
    # Each is compared with every token: how long it takes tells nothing.
    assert len(compared) == 3 * 2


def test_every_endpoint_is_behind_the_door(control: Control) -> None:
    app = FastAPI()
    app.include_router(router(control, tokens=[TOKEN]))
    client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1))
    asked = 0
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            url = path.replace("{", "").replace("}", "")
            assert client.request(method, url).status_code == 401, (method, path)
            asked += 1
    assert asked == 17


@pytest.mark.parametrize("given", [{}, {"tokens": []}, {"tokens": ["short"]}, {"tokens": ""}])
def test_nobody_is_let_in_by_chance(control: Control, given: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match=r"local_only=True|characters"):
        router(control, **given)


@pytest.fixture(scope="module")
def local(url: str) -> Iterator[FastAPI]:
    """For this machine only."""
    with Control(url) as control:
        app = FastAPI()
        app.include_router(router(control, local_only=True))
        yield app


@pytest.mark.parametrize(
    ("host", "address", "headers", "status"),
    [
        ("localhost", "127.0.0.1", {}, 200),
        ("127.0.0.1:8000", "127.0.0.1", {}, 200),
        ("[::1]:8000", "::1", {}, 200),
        ("localhost", "10.0.0.7", {}, 403),
        ("localhost", "testclient", {}, 403),
        ("evil.example", "127.0.0.1", {}, 403),
        ("localhost.evil.example", "127.0.0.1", {}, 403),
        ("localhost", "127.0.0.1", {"X-Forwarded-For": "10.0.0.7"}, 403),
        ("127.0.0.1:8000", "127.0.0.1", {"Via": "1.1 x"}, 403),
        ("127.0.0.1:8000", "127.0.0.1", {"X-Forwarded-Host": "desk.example.com"}, 403),
        ("127.0.0.1:8000", "127.0.0.1", {"X-Forwarded-Proto": "https"}, 403),
        ("127.0.0.1:8000", "127.0.0.1", {"CF-Connecting-IP": "10.0.0.7"}, 403),
        ("localhost", "127.0.0.1", {"Origin": "http://evil.example"}, 403),
        ("localhost", "127.0.0.1", {"Origin": "null"}, 403),
        ("localhost", "127.0.0.1", {"Origin": "http://localhost"}, 200),
        ("localhost", "127.0.0.1", {"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_this_machine_only(
    local: FastAPI, host: str, address: str, headers: dict[str, str], status: int
) -> None:
    client = TestClient(local, base_url="http://localhost", client=(address, 1))
    response = client.get("/runs", headers={"Host": host, **headers})
    assert response.status_code == status
    assert "access-control-allow-origin" not in response.headers


def test_other_sites_may_not_ask_with_a_token_either(control: Control) -> None:
    client = client_of(control)
    foreign = {"Origin": "https://evil.example"}
    assert client.post("runs/x/cancel", headers=foreign).status_code == 403
    preflight = {**foreign, "Access-Control-Request-Method": "POST"}
    response = client.options("runs/x/cancel", headers=preflight)
    assert "access-control-allow-origin" not in response.headers


def test_bodies_are_short(control: Control) -> None:
    client = client_of(control, crew(), tokens=[TOKEN], max_body=1000)
    client.headers.update(BEARER)
    body = {"inputs": {"topic": "x" * 1000}}
    assert client.post("runs", json=body).status_code == 413

    def pieces() -> Any:
        yield from [b'{"inputs": {"topic": "'] + [b"x" * 100] * 20

    assert client.post("runs", content=pieces()).status_code == 413
    deep = b'{"inputs": {"topic": ' + b"[" * 300 + b"]" * 300 + b"}}"
    json = {"Content-Type": "application/json"}
    assert client.post("runs", content=deep, headers=json).status_code == 422
    for broken in (b"{", b"\xff", b'{"inputs": {"topic": NaN}}', b'{"inputs": {"a\\u0000": 1}}'):
        response = client.post("runs", content=broken, headers=json)
        assert response.status_code in (400, 422), broken
        assert response.headers["content-type"] == "application/problem+json"


def test_no_secret_and_no_trace(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(control, crew())
    secret = "sk-1234567890abcdefghijklmn"

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"with {secret} in it")

    monkeypatch.setattr(Control, "runs", broken)
    failed = client.get("runs")
    assert failed.status_code == 500
    assert failed.json()["detail"].startswith("Something went wrong here")
    assert secret not in failed.text
    assert "Traceback" not in failed.text
    # What was sent is not sent back, nor what looks like a key.
    wrong = client.post("runs", json={"inputs": secret})
    assert wrong.status_code == 422
    assert secret not in wrong.text
    unknown = client.get(f"runs/{secret}")
    assert unknown.status_code == 404
    assert secret not in unknown.text


def test_audiences_are_names_and_no_text() -> None:
    with pytest.raises(DefinitionError, match=r"\{'support'\}"):
        User("ann", audiences="support")
    ann = User("ann", audiences=(name for name in ("support", "books")))
    assert [ann.in_audience("books"), ann.in_audience("support"), ann.in_audience("port")] == [
        True,
        True,
        False,
    ]


def test_who_is_asked_beside_the_loop(control: Control) -> None:
    asked_on: list[threading.Thread] = []
    loops: list[threading.Thread] = []

    def who(_: Any) -> User:
        asked_on.append(threading.current_thread())
        return User("ann")

    app = FastAPI()
    app.include_router(router(control, who=who))

    @app.get("/loop")
    async def loop() -> None:
        loops.append(threading.current_thread())

    with TestClient(app, base_url="http://localhost") as client:
        client.get("/loop")
        assert client.get("/runs").status_code == 200
    assert asked_on
    assert asked_on[0] is not loops[0]


def test_who_returns_a_user(control: Control) -> None:
    client = client_of(control, who=lambda _: "ann")
    assert client.get("runs").status_code == 500  # and the log says why
