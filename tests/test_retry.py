"""Which failures are worth another call, with the errors that openai and httpx really raise."""

from __future__ import annotations

import email.utils
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from crewai_dbos._journal.retry import is_transient, retry_after

REQUEST = httpx.Request("POST", "https://api.openai.com/v1/chat/completions")


def response(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, request=REQUEST, headers=headers)


def by_openai(status: int, body: Any = None, **headers: str) -> openai.APIStatusError:
    """The error that the openai client makes of a response."""
    client = openai.OpenAI(api_key="sk-test")
    content = {"error": body} if body else {}
    answer = httpx.Response(status, request=REQUEST, headers=headers, json=content)
    return client._make_status_error_from_response(answer)


def by_httpx(status: int, **headers: str) -> httpx.HTTPStatusError:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        response(status, **headers).raise_for_status()
    return caught.value


def wrapped(error: Exception, cls: type[Exception] = RuntimeError) -> Exception:
    """What an `except` that raises its own error makes of `error`."""
    try:
        try:
            raise error
        except Exception as inner:
            raise cls("The model failed") from inner
    except Exception as outer:
        return outer


def handled(error: Exception) -> Exception:
    """As `wrapped`, but by somebody who forgot the ``from``."""
    try:
        try:
            raise error
        except Exception:
            raise RuntimeError("The model failed")  # noqa: B904
    except RuntimeError as outer:
        return outer


def from_itself(error: Exception) -> Exception:
    """As crewAI raises errors again: ``raise e from e``."""
    try:
        raise error from error
    except Exception as caught:
        return caught


def by_botocore(code: str, status: int | None = None, **headers: str) -> Exception:
    """An error as botocore raises it: all that it knows is in a dict."""

    class ClientError(Exception):
        def __init__(self) -> None:
            said = {"HTTPStatusCode": status, "HTTPHeaders": headers} if status else {}
            self.response = {"Error": {"Code": code, "Message": "No."}, "ResponseMetadata": said}
            super().__init__(f"An error occurred ({code})")

    return ClientError()


def by_google(code: int) -> Exception:
    """An error as google-genai raises it: its status is called a code."""

    class APIError(Exception):
        def __init__(self) -> None:
            self.code, self.status = code, "SOME_NAME"
            super().__init__(f"{code}")

    return APIError()


TRANSIENT = {
    "rate limit": by_openai(429),
    "request timeout": by_openai(408),
    "conflict": by_openai(409),
    "server error": by_openai(500),
    "bad gateway": by_openai(502),
    "unavailable": by_openai(503),
    "overloaded": by_openai(529),
    "429 of httpx": by_httpx(429),
    "503 of httpx": by_httpx(503),
    "connection of openai": openai.APIConnectionError(request=REQUEST),
    "timeout of openai": openai.APITimeoutError(request=REQUEST),
    "read timeout of httpx": httpx.ReadTimeout("late", request=REQUEST),
    "refused, of httpx": httpx.ConnectError("refused", request=REQUEST),
    "cut off, of httpx": httpx.RemoteProtocolError("incomplete chunked read", request=REQUEST),
    "timeout of Python": TimeoutError("late"),
    "connection of Python": ConnectionResetError("gone"),
    "connection, from itself": from_itself(ConnectionError("gone")),
    "throttled, of botocore": by_botocore("ThrottlingException", 429),
    "model not ready, of botocore": by_botocore("ModelNotReadyException", 429),
    "model not ready, in a stream": by_botocore("modelNotReadyException"),
    "throttled, in a stream": by_botocore("throttlingException"),
    "503 of botocore": by_botocore("ServiceUnavailableException", 503),
    "429 of Google": by_google(429),
    "503 of Google": by_google(503),
}
HOPELESS = {
    "authentication": by_openai(401),
    "permission": by_openai(403),
    "bad request": by_openai(400),
    "not found": by_openai(404),
    "unprocessable": by_openai(422),
    "401 of httpx": by_httpx(401),
    "404 of httpx": by_httpx(404),
    "out of quota": by_openai(429, {"code": "insufficient_quota", "message": "Pay."}),
    "billing limit": by_openai(429, {"code": "billing_hard_limit_reached", "message": "Pay."}),
    "too long": by_openai(400, {"code": "context_length_exceeded", "message": "Too long."}),
    "denied, of botocore": by_botocore("AccessDeniedException", 403),
    "invalid, of botocore": by_botocore("ValidationException", 400),
    "invalid, in a stream": by_botocore("validationException"),
    "quota of botocore": by_botocore("ServiceQuotaExceededException", 429),
    "401 of Google": by_google(401),
    "a bug": TypeError("unsupported operand"),
    "a value": ValueError("bad"),
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_what_can_pass_is_tried_again(name: str) -> None:
    assert is_transient(TRANSIENT[name])


@pytest.mark.parametrize("name", TRANSIENT)
@pytest.mark.parametrize("wrap", [wrapped, handled])
def test_a_wrapper_does_not_hide_that_it_can_pass(
    name: str, wrap: Callable[[Exception], Exception]
) -> None:
    assert is_transient(wrap(TRANSIENT[name]))
    assert is_transient(wrap(wrap(TRANSIENT[name])))


@pytest.mark.parametrize("name", HOPELESS)
def test_what_can_not_pass_is_not_tried_again(name: str) -> None:
    assert not is_transient(HOPELESS[name])


@pytest.mark.parametrize("name", HOPELESS)
@pytest.mark.parametrize("wrap", [wrapped, handled])
def test_a_wrapper_does_not_make_it_pass(name: str, wrap: Callable[[Exception], Exception]) -> None:
    assert not is_transient(wrap(HOPELESS[name]))


@pytest.mark.parametrize("name", HOPELESS)
def test_a_connection_error_that_wraps_something_else_is_not_about_the_connection(
    name: str,
) -> None:
    """crewAI raises `ConnectionError` from some errors of an SDK."""
    assert not is_transient(wrapped(HOPELESS[name], ConnectionError))


def test_a_chain_without_an_end_is_followed_once() -> None:
    one, two = ValueError(1), ValueError(2)
    one.__cause__, two.__cause__ = two, one
    assert not is_transient(one)
    assert retry_after(one) == 0.0


# What really comes out of a broken connection ------------------------------------


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that treats every connection in the same way."""
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []
    over = threading.Event()

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            accepted.append(connection)
            if over.is_set():
                return
            answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        socket.create_connection(listener.getsockname()).close()
        thread.join()
        for connection in (listener, *accepted):
            connection.close()


def hang_up(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.close()


def reset(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def stop_halfway(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    connection.close()


def say_nothing(connection: socket.socket) -> None: ...


def failure(client: str, url: str) -> Exception:
    """What a request to `url` raises."""
    try:
        if client == "httpx":
            httpx.get(url, timeout=0.2)
        else:
            openai.OpenAI(api_key="x", base_url=url, max_retries=0, timeout=0.2).models.list()
    except Exception as error:
        return error
    raise AssertionError("the request succeeded")


@pytest.mark.parametrize("answer", [hang_up, reset, stop_halfway, say_nothing])
@pytest.mark.parametrize("client", ["httpx", "openai"])
def test_a_broken_connection_is_tried_again(
    answer: Callable[[socket.socket], None], client: str
) -> None:
    with serving(answer) as url:
        assert is_transient(failure(client, url))


@pytest.mark.parametrize("client", ["httpx", "openai"])
def test_a_server_that_is_down_is_tried_again(client: str) -> None:
    with serving(hang_up) as url:
        pass
    assert is_transient(failure(client, url))


@pytest.mark.parametrize("client", ["httpx", "openai"])
def test_a_name_that_can_not_be_looked_up_is_tried_again(
    client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    assert is_transient(failure(client, "http://nobody.invalid"))


# Retry-After -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2", 2.0), ("0.5", 0.5), ("0", 0.0), ("-3", 0.0), ("soon", 0.0), ("86400", 3600.0)],
)
def test_the_server_says_how_many_seconds_to_wait(text: str, seconds: float) -> None:
    for error in (
        by_openai(429, **{"retry-after": text}),
        by_httpx(503, **{"Retry-After": text}),
        by_botocore("ThrottlingException", 429, **{"retry-after": text}),
    ):
        assert retry_after(error) == seconds
        assert retry_after(wrapped(error)) == seconds


def test_the_server_says_until_when_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    for ahead, seconds in ((30, 30.0), (-30, 0.0), (999_999, 3600.0)):
        date = email.utils.formatdate(now + ahead, usegmt=True)
        assert retry_after(by_openai(429, **{"retry-after": date})) == seconds


def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    assert retry_after(by_openai(429)) == 0.0
    assert retry_after(openai.APIConnectionError(request=REQUEST)) == 0.0
    assert retry_after(ValueError("x")) == 0.0


def test_headers_on_the_error_itself_count() -> None:
    class SomeSdkError(Exception):
        def __init__(self, headers: Any) -> None:
            self.headers = headers

    assert retry_after(SomeSdkError({"retry-after": "3"})) == 3.0
    assert retry_after(SomeSdkError({"Retry-After": "3"})) == 3.0
    assert retry_after(SomeSdkError("no mapping")) == 0.0
