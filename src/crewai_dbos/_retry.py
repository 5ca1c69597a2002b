"""Which failed LLM calls are worth making again, and when."""

from __future__ import annotations

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
_LONGEST_WAIT = 3600.0


def is_transient(error: BaseException) -> bool:
    """True for rate limits, timeouts, lost connections and 5xx; never for auth or bad requests.

    Reads the SDK-independent marks (``status_code``, the class name) of `error` and its causes.
    """
    for link in _chain(error):
        if getattr(link, "code", None) in _HOPELESS_CODES:
            return False
        status = _status(link)
        if status is not None:
            return status in _TRANSIENT_STATUS or status >= 500
        if isinstance(link, (TimeoutError, ConnectionError, httpx.TransportError)) and not (
            link.__cause__ or link.__context__
        ):
            return True
        name = type(link).__name__.lower()
        if any(mark in name for mark in _TRANSIENT_NAMES):
            return True
    return False


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
        link = link.__cause__ or link.__context__
