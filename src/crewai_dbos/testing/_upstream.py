"""Asking a real OpenAI-compatible endpoint for one chat completion."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .replies import ApiError, Message, ToolCall, error

if TYPE_CHECKING:
    import httpx

# As long as the openai SDK waits.
_PATIENCE = 600.0


def ask(base_url: str, api_key: str, body: Mapping[str, Any]) -> Message | ApiError:
    """The answer to a chat request, whether or not it wants to be streamed.

    Raises:
        ConnectionError: There was none.
    """
    import httpx  # a tenth of a second that only recording needs

    asked = {name: body[name] for name in body.keys() - {"stream", "stream_options"}}
    try:
        response = httpx.post(
            f"{base_url.rstrip('/')}/chat/completions",
            json={**asked, "stream": False},
            headers={"authorization": f"Bearer {api_key}"},
            timeout=_PATIENCE,
        )
    except httpx.TransportError as problem:
        raise ConnectionError(
            f"{base_url} did not answer: {type(problem).__name__}: {problem}"
        ) from problem
    if response.is_error:
        return _error(response)
    try:
        return _message(response.json()["choices"][0])
    except (ValueError, LookupError, TypeError) as problem:
        raise ConnectionError(
            f"{base_url} answered with no chat completion: {response.text[:200]!r}"
        ) from problem


def _message(choice: Mapping[str, Any]) -> Message:
    message = choice["message"]
    calls = tuple(
        ToolCall(call["function"]["name"], call["function"]["arguments"] or "{}", call["id"])
        for call in message.get("tool_calls") or []
    )
    return Message(message.get("content"), calls, choice.get("finish_reason") or "stop")


def _error(response: httpx.Response) -> ApiError:
    given: Any = None
    with contextlib.suppress(ValueError, LookupError, TypeError):
        given = response.json()["error"]
    if not isinstance(given, dict):
        given = {"message": given or response.text[:500] or response.reason_phrase}
    retry_after = None
    with contextlib.suppress(KeyError, ValueError):
        retry_after = float(response.headers["retry-after"])
    fields = {name: given.get(name) for name in ("message", "type", "code", "param")}
    texts = {name: str(value) for name, value in fields.items() if value is not None}
    return error(response.status_code, retry_after=retry_after, **texts)
