"""Who may ask a server of ours: those who know the token in its address.

Being on 127.0.0.1 keeps off other machines only, not the other users of this one.
"""

from __future__ import annotations

import re
import secrets

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


def token(given: str | None) -> str:
    """The token of an address: `given`, or else a random one.

    Raises:
        ValueError: `given` can't stand in an address, or is empty.
    """
    if given is None:
        return secrets.token_urlsafe()
    if not re.fullmatch(r"[A-Za-z0-9_-]+", given):
        raise ValueError(f"A token is made of letters, digits, - and _, not {given!r}")
    return given


class BelowToken:
    """An application for those who ask for ``/token/...``; it sees what follows the token.

    Everybody else finds nothing, whatever they ask for.
    """

    def __init__(self, token: str, application: ASGIApp) -> None:
        self._root = f"/{token}".encode()
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].encode()
        root, rest = path[: len(self._root)], path[len(self._root) :]
        # In a time that does not tell how much of a guess was right.
        if not secrets.compare_digest(root, self._root) or not rest.startswith(b"/"):
            await Response(status_code=404)(scope, receive, send)
            return
        await self._application({**scope, "path": rest.decode()}, receive, send)
