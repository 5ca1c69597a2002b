"""Who has logged in on the page: a cookie that is signed with the token, and one for forms."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from crewai_dbos._http.auth import Access, Caller, User
from crewai_dbos._http.problems import Problem

_SESSION = "crewai_dbos_session"
_FORM = "crewai_dbos_form"
LASTS = 12 * 3600
"""Seconds after which somebody logs in again."""


def signed_in(response: Response, request: Request, base: str, token: str, name: str) -> None:
    """Have the browser keep who has logged in with `token`, for the page at `base`."""
    said = {"name": name[:200], "until": int(time.time()) + LASTS, "salt": secrets.token_hex(8)}
    content = base64.urlsafe_b64encode(json.dumps(said).encode()).decode()
    value = f"{content}.{_signature(token.encode(), content)}"
    _set(response, request, base, _SESSION, value)


def signed_out(response: Response, request: Request, base: str) -> None:
    """Have the browser forget it."""
    response.delete_cookie(_name(_SESSION, request, base), path=base or "/")


def has_session(request: Request, base: str) -> bool:
    """Whether somebody has logged in at the page at `base`, or had."""
    return _name(_SESSION, request, base) in request.cookies


def caller(request: Request, base: str, access: Access) -> Caller | None:
    """Who has logged in, if the cookie is one that was signed with a token of now."""
    cookie = request.cookies.get(_name(_SESSION, request, base), "")
    content, _, signature = cookie.partition(".")
    fits = [
        hmac.compare_digest(
            _signature(token, content), signature.encode("utf-8", "replace").decode()
        )
        for token in access.tokens
        if signature.isascii()
    ]
    if not any(fits):
        return None
    said: Any = json.loads(base64.urlsafe_b64decode(content))
    return Caller(User(said["name"])) if said["until"] > time.time() else None


def _signature(token: bytes, content: str) -> str:
    return hmac.new(token, f"page:{content}".encode(), hashlib.sha256).hexdigest()


def form_key(request: Request, base: str) -> str:
    """What is in each form that this browser is given, and in a cookie that only it has."""
    given = request.cookies.get(_name(_FORM, request, base), "")
    return given if len(given) == 43 and given.isascii() else secrets.token_urlsafe(32)


def keep_form_key(response: Response, request: Request, base: str, key: str) -> None:
    """Have the browser keep it for as long again, also where a link from a mail leads here."""
    _set(response, request, base, _FORM, key)


def check_form(request: Request, base: str, form: Mapping[str, str]) -> None:
    """Refuse a form that was not ours: one of another site has no way to know the cookie.

    Raises:
        Problem: It was not.
    """
    key = request.cookies.get(_name(_FORM, request, base), "").encode()
    if not key or not hmac.compare_digest(key, form.get("key", "").encode("utf-8", "replace")):
        raise Problem(
            403, "That form was not made for this browser, or is old. Load the page again.", "form"
        )


def _name(name: str, request: Request, base: str) -> str:
    """Of a cookie: a browser sends that of ``/`` to ``/desk``, too, and to every port of a host."""
    port = request.headers.get("host", "").rpartition(":")[2]
    where = f"{port if port.isdecimal() else ''}{base}"
    return f"{name}_{hashlib.sha256(where.encode()).hexdigest()[:8]}" if where else name


def _set(response: Response, request: Request, base: str, name: str, value: str) -> None:
    response.set_cookie(
        _name(name, request, base),
        value,
        max_age=LASTS,
        path=base or "/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )
