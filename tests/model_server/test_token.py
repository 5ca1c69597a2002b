"""Who may ask the server: those who were given its address."""

from __future__ import annotations

import http.client
import subprocess
import sys
from urllib.parse import urlsplit

import openai
import pytest

from crewai_dbos.testing import ModelServer
from model_server.helpers import HELLO, Serve, ask

CHAT = "/v1/chat/completions"
BODY = '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}'


def answered(server: ModelServer, path: str, method: str = "POST") -> tuple[int, bytes]:
    """What somebody is told who asks at the server's port for `path`."""
    connection = http.client.HTTPConnection(urlsplit(server.base_url).netloc)
    try:
        connection.request(method, path, BODY if method == "POST" else None)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_who_does_not_know_the_token_finds_nothing(serve: Serve) -> None:
    server = serve(["Hello."])
    token = urlsplit(server.base_url).path.split("/")[1]
    assert len(token) > 32
    others = [
        CHAT,
        f"/{'x' * len(token)}{CHAT}",
        f"/{token[:-1]}{CHAT}",
        f"/{token}x{CHAT}",
        f"//{token}{CHAT}",
        f"/%2e/{token}{CHAT}",
        f"/{token}",
        "/",
        "/v1/models",
        "/v1/%E2%98%83",
        "/%FF/v1",
        f"/?{token}{CHAT}",
    ]
    for path in others:
        assert answered(server, path) == (404, b""), path
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE"):
        assert answered(server, "/v1/models", method) == (404, b""), method
    assert server.all_requests == []
    assert server.counts() == {}
    # The one scripted reply is still there.
    assert ask(server).choices[0].message.content == "Hello."


def test_who_knows_it_needs_no_key(serve: Serve) -> None:
    server = serve(lambda request: "Hello.")
    for key in ("test", "sk-anything"):
        client = openai.OpenAI(base_url=server.base_url, api_key=key)
        client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert answered(server, urlsplit(server.base_url).path + "/chat/completions")[0] == 200
    assert [(each.path, each.has_auth) for each in server.all_requests] == [
        (CHAT, True),
        (CHAT, True),
        (CHAT, False),
    ]
    assert urlsplit(server.base_url).path not in str(server.all_requests)


def test_each_server_has_its_own(serve: Serve) -> None:
    one, other = serve(["Hello."]), serve(["Hello."])
    assert answered(other, urlsplit(one.base_url).path + "/chat/completions") == (404, b"")


@pytest.mark.crash
def test_an_address_that_another_process_knows_beforehand() -> None:
    with ModelServer([]) as any_server:
        port = urlsplit(any_server.base_url).port
    address = f"http://127.0.0.1:{port}/known-beforehand/v1"
    program = "import sys, urllib.request as u;print(u.urlopen(sys.argv[1] + '/models').read())"
    with ModelServer([], port=port or 0, token="known-beforehand") as server:
        assert server.base_url == address
        ran = subprocess.run(
            [sys.executable, "-c", program, address], capture_output=True, text=True, check=True
        )
    assert "gpt-4o" in ran.stdout


@pytest.mark.parametrize("token", ["", "a/b", "a b", "?", "ä"])
def test_what_can_not_be_a_token(token: str) -> None:
    with pytest.raises(ValueError, match="A token is made of letters"):
        ModelServer([], token=token)
