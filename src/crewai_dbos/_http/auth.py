"""Who is asking, and what they may see and do."""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import anyio.from_thread
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from crewai_dbos import _user
from crewai_dbos._http.problems import Problem
from crewai_dbos.control import Request as Asked
from crewai_dbos.control import Run
from crewai_dbos.errors import DefinitionError

T = TypeVar("T")

SHORTEST = 16
"""Characters of a token: a shorter one could be guessed."""


@dataclass(frozen=True)
class User:
    """Somebody of the application's users.

    Args:
        name: Stored with what they do: who has answered, cancelled, forked.
        audiences: Whose requests they see and answer, beside those for anybody; None for all.

    Example::

        from crewai_dbos.http import User

        ann = User("ann", audiences={"support", "books"})
    """

    name: str
    audiences: Iterable[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.audiences, str):
            raise DefinitionError(f"audiences are a set of names: {{{self.audiences!r}}}")
        if self.audiences is not None:
            object.__setattr__(self, "audiences", frozenset(self.audiences))

    def in_audience(self, audience: str | None) -> bool:
        """Whether a request for this audience is one for them.

        Example::

            from crewai_dbos.http import User

            print(User("ann", audiences={"support"}).in_audience("books"))
        """
        return audience is None or self.audiences is None or audience in self.audiences


Action = Literal["see", "start", "answer", "cancel", "resume", "fork"]
"""What a user may be allowed to do."""

Who = Callable[[Request], User | Awaitable[User | None] | None]
"""Who sends a request, by the application's own means; None for somebody unknown."""

May = Callable[[User, Action, Run | Asked | str], bool | Awaitable[bool]]
"""Whether a user may do something: with a run, a request, or a definition of this name."""


@dataclass(frozen=True)
class Caller:
    """Who sends a request.

    Attributes:
        user: Who that is.
        for_others: Whether they may say in whose name they act: with the token of a program.
    """

    user: User
    for_others: bool = False

    def name(self, by: str | None) -> str:
        """Whose name is stored; `by` is what the request says."""
        return by if by and self.for_others else self.user.name


class Access:
    """Lets in who may come in.

    Args:
        tokens: Any of these is a key, so that one can follow another.
        local_only: Whether only this machine is let in.
        who: As of `router`.
        may: As of `router`.

    Raises:
        DefinitionError: Everybody would be let in, or a token could be guessed.
    """

    def __init__(
        self,
        tokens: str | Iterable[str] = (),
        local_only: bool = False,
        who: Who | None = None,
        may: May | None = None,
    ) -> None:
        given = [tokens] if isinstance(tokens, str) else list(tokens)
        if not given and who is None and not local_only:
            raise DefinitionError(
                "Who may come in? Give tokens=[...] (bearer tokens), who=... (your own users), or "
                "local_only=True, which lets in everybody on this machine and nobody else."
            )
        if any(not isinstance(each, str) or len(each.strip()) < SHORTEST for each in given):
            raise DefinitionError(
                f"A token has {SHORTEST} characters or more. Make one: "
                'python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        self._tokens = [each.strip().encode() for each in given]
        self._local_only = local_only
        self._who = who
        self._may = may

    @property
    def tokens(self) -> tuple[bytes, ...]:
        return tuple(self._tokens)

    @property
    def needs_token(self) -> bool:
        return bool(self._tokens)

    def is_token(self, token: str) -> bool:
        """Whether `token` opens; how long this takes says nothing of the tokens."""
        given = token.encode("utf-8", "surrogateescape")
        fits = [hmac.compare_digest(given, each) for each in self._tokens]
        return any(fits)

    async def authenticate(self, request: Request) -> Caller:
        """Who sends `request`.

        Raises:
            Problem: They are not let in.
        """
        self.check_origin(request)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if self._tokens and scheme.lower() == "bearer" and self.is_token(token.strip()):
            return Caller(User("api"), for_others=True)
        if self._who is not None:
            user = await self._asked_who(self._who, request)
            if user is not None:
                return Caller(user)
        elif self._local_only and not self._tokens:
            return self.local_user()
        raise Problem(
            401,
            "Send the header Authorization: Bearer TOKEN.",
            "unauthorized",
            {"WWW-Authenticate": "Bearer"},
        )

    @staticmethod
    async def _asked_who(who: Who, request: Request) -> User | None:
        is_async = inspect.iscoroutinefunction(who) or inspect.iscoroutinefunction(
            getattr(who, "__call__", None)  # noqa: B004
        )
        found = who(request) if is_async else await run_in_threadpool(who, request)
        user = await found if inspect.isawaitable(found) else found
        if user is not None and not isinstance(user, User):
            raise TypeError(f"who() returns a crewai_dbos.http.User or None, not {type(user)}")
        return user

    @staticmethod
    def local_user() -> Caller:
        """Whoever sits at this machine."""
        return Caller(User(_user.name()), for_others=True)

    def check_origin(self, request: Request) -> None:
        """Refuse what another site has a browser send, and what another machine sends.

        Raises:
            Problem: It is that.
        """
        if _is_of_another_site(request):
            raise Problem(403, "Other sites may not ask here.", "foreign-origin")
        if self._local_only and not _is_local(request):
            raise Problem(
                403,
                "This is for this machine only (local_only). For others, give tokens or who.",
                "not-local",
            )

    def allows(self, caller: Caller, action: Action, about: Run | Asked | str) -> bool:
        """Whether `caller` may. Called on a thread."""
        if self._may is None:
            return not isinstance(about, Asked) or caller.user.in_audience(about.audience)
        return bool(_awaited(self._may(caller.user, action, about)))

    def audiences_of(self, caller: Caller) -> Iterable[str] | None:
        """For whom requests have to be that `caller` may see; None for all, or if `may` decides."""
        return caller.user.audiences if self._may is None else None

    def size_of_page(self, limit: int) -> int:
        """How many requests are looked at in one go, of which `limit` are wanted."""
        return limit if self._may is None else max(limit, 200)

    def allows_all(self, caller: Caller) -> bool:
        """Whether `caller` may see and answer every request, whatever it is."""
        return self._may is None and caller.user.audiences is None


def _is_of_another_site(request: Request) -> bool:
    """Whether a browser says that another site has it send this. No script can say otherwise."""
    headers = request.headers
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site in ("cross-site", "same-site"):
        # To follow a link from elsewhere is no harm.
        return request.method != "GET" or headers.get("sec-fetch-mode") != "navigate"
    if origin is None or site in ("same-origin", "none"):
        # What the browser says of itself: behind a proxy Host may be another one's, and by a
        # Referrer-Policy Origin is "null".
        return False
    return _host_in(origin) != headers.get("host", "")


def _host_in(url: str) -> str | None:
    """The host of a URL with its port; None of what is none."""
    try:
        return urlsplit(url).netloc or None
    except ValueError:
        return None


_OF_PROXIES = {
    "forwarded",
    "via",
    "x-real-ip",
    "x-original-host",
    "x-client-ip",
    "cf-connecting-ip",
    "true-client-ip",
}
"""Headers that a proxy adds, beside those that begin with ``X-Forwarded``."""


def _is_local(request: Request) -> bool:
    """Whether it comes from this machine, and is sent to it: a name of another could lead here."""
    is_forwarded = any(
        name in _OF_PROXIES or name.startswith("x-forwarded") for name in request.headers
    )
    if is_forwarded or request.client is None or not _is_loopback(request.client.host):
        return False
    try:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return False
    return host == "localhost" or _is_loopback(host or "")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _awaited(found: Any) -> Any:
    """What `found` is or, of an async function, comes to."""
    if not inspect.isawaitable(found):
        return found

    async def wait() -> Any:
        return await found

    return anyio.from_thread.run(wait)
