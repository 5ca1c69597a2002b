"""Scripts that record a real model's replies in a file, and that answer from the file.

with ModelServer(record("ticket.json")) as server: ...    # asks OpenAI
with ModelServer(recorded("ticket.json")) as server: ...  # asks nobody
"""

from __future__ import annotations

import json
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crewai_dbos import _private_files

from . import _matching, _upstream
from .replies import ApiError, Message, ToolCall
from .request import Request, digest

_VERSION = 1

# A shorter key would be found in texts by chance.
_SHORTEST_KEY = 8

_OPENAI = "https://api.openai.com/v1"


class RecordingError(LookupError):
    """A recording can't be read, or has no reply for a request."""


def record(
    path: str | os.PathLike[str], *, base_url: str | None = None, api_key: str | None = None
) -> Callable[[Request], Message | ApiError]:
    """A script that asks a real endpoint, and writes what it asked and was told to a file.

    The file is written anew, after each reply, and only its owner may read it. It holds the
    conversations in plain JSON, no headers, and not the key. Errors of the endpoint are recorded
    and passed on; where there is no answer the request fails and is not recorded. Embeddings are
    the server's own.

    Args:
        path: The file.
        base_url: Of an OpenAI-compatible API; without one ``OPENAI_BASE_URL``, or OpenAI's.
        api_key: Sent to it as a bearer token; without one ``OPENAI_API_KEY``.

    Raises:
        ValueError: There is no key.

    Example::

        import os

        from crewai_dbos.testing import ModelServer, record

        # The endpoint and the key are those of the environment.
        with ModelServer(record("ticket.json")) as server:
            os.environ.update(server.env)
            agent.kickoff("Answer ticket 7.")
    """
    file = Path(path)
    # Now: the tests of an agent go on to point these variables at our own server.
    address = base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI
    key = api_key or os.environ.get("OPENAI_API_KEY")
    if not key:
        raise ValueError("Recording asks a real model: set OPENAI_API_KEY, or pass api_key=.")
    exchanges: list[dict[str, Any]] = []
    writing = threading.Lock()

    def script(request: Request) -> Message | ApiError:
        reply = _upstream.ask(address, key, request.body)
        asked = {name: value for name, value in request.identity.items() if value is not None}
        with writing:
            exchanges.append({"request": asked, "reply": _as_json(reply)})
            _write(file, {"version": _VERSION, "exchanges": exchanges}, key)
        return reply

    return script


def recorded(
    path: str | os.PathLike[str], *, ignore: Sequence[str] = ()
) -> Callable[[Request], Message | ApiError]:
    """A script that answers each request as the equal one in a recording was answered.

    Requests are equal if model, messages, tools, tool choice and response format are. Ids of tool
    calls, UUIDs, addresses of objects, times and crewAI's current date are not compared. If a
    request was recorded several times, the n-th one to a server gets the n-th reply, and those
    after the last get the last: a restarted program repeats the request it was killed in.

    Args:
        path: The file.
        ignore: Regular expressions for what else changes from run to run.

    Raises:
        RecordingError: There is no such file, or it can't be read.

    Example::

        import os

        from crewai_dbos.testing import ModelServer, record, recorded

        with ModelServer(record("ticket.json")) as server:
            os.environ.update(server.env)
            first = agent.kickoff("Answer ticket 7.").raw
        with ModelServer(recorded("ticket.json")) as server:
            os.environ.update(server.env)
            assert agent.kickoff("Answer ticket 7.").raw == first
    """
    file = Path(path)
    exchanges = _read(file)
    changing = _matching.pattern(ignore)
    requests = [_matching.comparable(asked, changing) for asked, _ in exchanges]
    replies: dict[str, list[Message | ApiError]] = defaultdict(list)
    for asked, (_, reply) in zip(requests, exchanges, strict=True):
        replies[_key(asked)].append(reply)
    keys: dict[str, str] = {}

    def key_of(request: Request) -> str:
        fingerprint = request.fingerprint
        if fingerprint not in keys:
            keys[fingerprint] = _key(_matching.comparable(request.identity, changing))
        return keys[fingerprint]

    def script(request: Request) -> Message | ApiError:
        key = key_of(request)
        if key not in replies:
            asked = _matching.comparable(request.identity, changing)
            raise RecordingError(_unknown(file, asked, requests))
        before = sum(key_of(earlier) == key for earlier in request.earlier)
        return replies[key][min(before, len(replies[key]) - 1)]

    return script


def _unknown(file: Path, asked: dict[str, Any], requests: Sequence[dict[str, Any]]) -> str:
    if not requests:
        return f"{file} has no requests in it. {_anew(file)}"
    at = _matching.nearest(asked, requests)
    return (
        f"this request is not in {file}. It differs from number {at + 1} of {len(requests)} there, "
        f"the nearest (- recorded, + asked):\n{_matching.difference(requests[at], asked)}\n"
        f"{_anew(file)}"
    )


def _anew(file: Path) -> str:
    return f"To record anew, run once with ModelServer(record({str(file)!r}))."


def _key(asked: dict[str, Any]) -> str:
    return digest(json.dumps(asked, sort_keys=True, ensure_ascii=False))


# The file ----------------------------------------------------------------------------


def _write(file: Path, content: Mapping[str, Any], api_key: str) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    if len(api_key) >= _SHORTEST_KEY:
        # Servers like to repeat a key in the error that refuses it.
        text = text.replace(api_key, "***")
    _private_files.write(file, text)


def _read(file: Path) -> list[tuple[dict[str, Any], Message | ApiError]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordingError(f"There is no {file}. {_anew(file)}") from None
    except ValueError as problem:
        raise RecordingError(f"{file} is not JSON: {problem}. {_anew(file)}") from problem
    version = content.get("version") if isinstance(content, dict) else None
    if version != _VERSION:
        raise RecordingError(
            f"{file} is not a recording of version {_VERSION}, but of {version}. {_anew(file)}"
        )
    try:
        return [(dict(each["request"]), _from_json(each["reply"])) for each in content["exchanges"]]
    except (LookupError, TypeError, ValueError) as problem:
        what = f"{type(problem).__name__}: {problem}"
        raise RecordingError(f"{file} can't be read: {what}. {_anew(file)}") from problem


def _as_json(reply: Message | ApiError) -> dict[str, Any]:
    if isinstance(reply, ApiError):
        return {
            "error": {name: value for name, value in asdict(reply).items() if value is not None}
        }
    return {name: value for name, value in asdict(reply).items() if value != ()}


def _from_json(reply: Mapping[str, Any]) -> Message | ApiError:
    if "error" in reply:
        return ApiError(**reply["error"])
    calls = tuple(ToolCall(**call) for call in reply.get("calls", ()))
    return Message(reply["content"], calls, reply["finish_reason"])
