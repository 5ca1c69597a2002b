"""Which failed LLM calls are worth making again, and when."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

_TRANSIENT_STATUS = frozenset({408, 409, 425, 429})
# The account is out of money, not out of breath: waiting does not help.
_HOPELESS_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "ServiceQuotaExceededException"}
)
# Of the class of an error, or of the code that a server gives it.
_TRANSIENT_NAMES = (
    "ratelimit",
    "throttl",
    "timeout",
    "apiconnection",
    "serviceunavailable",
    "internalserver",
    "overloaded",
    "toomanyrequests",
    "resourceexhausted",
    "modelnotready",
    "connectionclosed",
    "endpointconnection",
    "serverdisconnected",
    "clientconnection",
    "servicerequesterror",
    "serviceresponseerror",
    "incompleteread",
)
_CONNECTION_TROUBLE = (TimeoutError, asyncio.TimeoutError, ConnectionError, httpx.TransportError)
_WRAPPERS = (ConnectionError, TimeoutError, RuntimeError)
_LONGEST_WAIT = 3600.0


def is_transient(error: BaseException) -> bool:
    """True for rate limits, timeouts, lost connections and 5xx; never for auth or bad requests.

    Reads what SDKs have in common (a status, a code, the class name) of `error` and its causes.
    """
    chain = list(_chain(error))
    if any(_code(link) in _HOPELESS_CODES for link in chain):
        return False
    # What the server said counts for more than how the SDK dressed it up.
    for status in filter(None, map(_status, chain)):
        return status in _TRANSIENT_STATUS or status >= 500
    # crewAI puts a plain ConnectionError around whatever went wrong.
    telling = [link for link in chain if type(link) not in _WRAPPERS or not _cause(link)]
    if any(isinstance(link, _CONNECTION_TROUBLE) for link in telling):
        return True
    names = [name.lower() for link in telling for name in (type(link).__name__, _code(link))]
    return any(mark in name for name in names for mark in _TRANSIENT_NAMES)


def retry_after(error: BaseException) -> float:
    """Seconds the server asked to wait (a number or an HTTP date), 0.0 if it did not."""
    for link in _chain(error):
        for headers in (*_headers(getattr(link, "response", None)), getattr(link, "headers", None)):
            try:
                text = headers.get("retry-after") or headers.get("Retry-After") if headers else None
            except AttributeError:
                continue
            if text:
                return min(max(_seconds(str(text)), 0.0), _LONGEST_WAIT)
    return 0.0


def _headers(response: Any) -> tuple[Any, ...]:
    """The headers of a response, an object or the dict that botocore makes of one."""
    if isinstance(response, Mapping):
        return (_met(response, "ResponseMetadata", "HTTPHeaders"),)
    return (getattr(response, "headers", None),)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError):
        return 0.0


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    found = (
        getattr(error, "status_code", None),
        getattr(response, "status_code", None),
        _met(response, "ResponseMetadata", "HTTPStatusCode"),
        # Google's, urllib's and aiohttp's.
        getattr(error, "code", None),
        getattr(error, "status", None),
    )
    return next((each for each in found if isinstance(each, int) and 400 <= each < 600), None)


def _code(error: BaseException) -> str:
    """What a server calls the error, in an answer that an SDK has read."""
    code = _met(getattr(error, "response", None), "Error", "Code") or getattr(error, "code", None)
    return code if isinstance(code, str) else ""


def _met(data: Any, *path: str) -> Any:
    """What lies in mappings in mappings."""
    for name in path:
        data = data.get(name) if isinstance(data, Mapping) else None
    return data


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = _cause(link)


def _cause(error: BaseException) -> BaseException | None:
    # crewAI writes `raise e from e`.
    found = error.__cause__ if error.__cause__ is not error else None
    return found or (error.__context__ if error.__context__ is not error else None)
