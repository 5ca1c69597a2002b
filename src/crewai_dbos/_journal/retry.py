"""Which failed LLM calls are worth making again, and when."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Iterator

import httpx

_TRANSIENT_STATUS = frozenset({408, 409, 425, 429})
# The account is out of money, not out of breath: waiting does not help.
_HOPELESS_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
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
)
_CONNECTION_TROUBLE = (TimeoutError, asyncio.TimeoutError, ConnectionError, httpx.TransportError)
_WRAPPERS = (ConnectionError, TimeoutError, RuntimeError)
_LONGEST_WAIT = 3600.0


def is_transient(error: BaseException) -> bool:
    """True for rate limits, timeouts, lost connections and 5xx; never for auth or bad requests.

    Reads the SDK-independent marks (``status_code``, the class name) of `error` and its causes.
    """
    chain = list(_chain(error))
    if any(getattr(link, "code", None) in _HOPELESS_CODES for link in chain):
        return False
    # What the server said counts for more than how the SDK dressed it up.
    for status in filter(None, map(_status, chain)):
        return status in _TRANSIENT_STATUS or status >= 500
    # crewAI puts a plain ConnectionError around whatever went wrong.
    telling = [link for link in chain if type(link) not in _WRAPPERS or not _cause(link)]
    if any(isinstance(link, _CONNECTION_TROUBLE) for link in telling):
        return True
    names = [type(link).__name__.lower() for link in telling]
    return any(mark in name for name in names for mark in _TRANSIENT_NAMES)


def retry_after(error: BaseException) -> float:
    """Seconds the server asked to wait (a number or an HTTP date), 0.0 if it did not."""
    for link in _chain(error):
        headers = getattr(getattr(link, "response", None), "headers", None) or getattr(
            link, "headers", None
        )
        try:
            text = headers.get("retry-after") or headers.get("Retry-After") if headers else None
        except AttributeError:
            continue
        if text:
            return min(max(_seconds(str(text)), 0.0), _LONGEST_WAIT)
    return 0.0


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
    for holder in (error, getattr(error, "response", None)):
        status = getattr(holder, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = _cause(link)


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or error.__context__
