"""Clients of SDKs that make one attempt inside a recorded call, and as many as ever outside.

What is private in an SDK is used here only. `tests/providers` fails when it moves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from crewai_dbos._classes import kept_with
from crewai_dbos._journal.open_calls import open_call


def single_attempt(client: Any) -> Any:
    """A copy of `client` that retries nothing inside a recorded call; itself, if it is unknown."""
    if inspect.iscoroutine(client):
        return _of_awaited(client)
    for is_one, copied in _KINDS:
        if is_one(client):
            return copied(client)
    return client


async def _of_awaited(client: Any) -> Any:
    return single_attempt(await client)


def _copy(original: Any, body: Callable[[Any], dict[str, Any]], **changed: Any) -> Any:
    """A shallow copy of a subclass with what `body` says; made without asking its class how."""
    cls: Any = type(original)
    copied = object.__new__(_derived(cls, body))
    copied.__dict__.update(original.__dict__, **changed)
    # Some close what they share with the copy when they go.
    copied.__dict__.setdefault("_crewai_dbos_original", original)
    return copied


def _derived(cls: Any, body: Callable[[Any], dict[str, Any]]) -> Any:
    if hasattr(cls, "_crewai_dbos_retries"):
        return cls

    def make() -> type:
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        return type(cls.__name__, (cls,), {**names, "_crewai_dbos_retries": True, **body(cls)})

    # Some SDKs make a class for every client.
    return kept_with(cls, body, make)


# OpenAI's and Anthropic's ----------------------------------------------------------


def _has_options(client: Any) -> bool:
    return hasattr(client, "with_options") and hasattr(client, "max_retries")


def _with_options(client: Any) -> Any:
    copied = client.with_options()
    copied.__class__ = _derived(type(copied), _no_max_retries)
    return copied


def _no_max_retries(cls: Any) -> dict[str, Any]:
    def max_retries(client: Any) -> int:
        return 0 if open_call() else int(client.__dict__["max_retries"])

    def set_max_retries(client: Any, value: int) -> None:
        client.__dict__["max_retries"] = value

    return {"max_retries": property(max_retries, set_max_retries)}


# boto3's and aiobotocore's ---------------------------------------------------------


def _is_botocore(client: Any) -> bool:
    return hasattr(getattr(client, "__dict__", {}).get("_endpoint"), "_needs_retry")


def _botocore(client: Any) -> Any:
    return _copy(client, _as_is, _endpoint=_copy(client._endpoint, _no_needs_retry))


def _as_is(cls: Any) -> dict[str, Any]:
    return {}


def _no_needs_retry(cls: Any) -> dict[str, Any]:
    original = cls._needs_retry

    if inspect.iscoroutinefunction(original):

        async def needs_retry_async(endpoint: Any, *args: Any, **kwargs: Any) -> Any:
            return False if open_call() else await original(endpoint, *args, **kwargs)

        return {"_needs_retry": needs_retry_async}

    def needs_retry(endpoint: Any, *args: Any, **kwargs: Any) -> Any:
        return False if open_call() else original(endpoint, *args, **kwargs)

    return {"_needs_retry": needs_retry}


# azure-core's ----------------------------------------------------------------------


def _is_azure(client: Any) -> bool:
    return hasattr(client, "complete") and type(client).__module__.startswith("azure.")


def _azure(client: Any) -> Any:
    return _copy(client, _no_retry_total)


def _no_retry_total(cls: Any) -> dict[str, Any]:
    def complete(client: Any, *args: Any, **kwargs: Any) -> Any:
        once = {"retry_total": 0} if open_call() else {}
        return cls.complete(client, *args, **kwargs, **once)

    return {"complete": complete}


# google-genai's --------------------------------------------------------------------


def _is_google(client: Any) -> bool:
    held = getattr(client, "__dict__", {})
    return hasattr(held.get("_api_client"), "_async_retry") and "_aio" in held


def _google(client: Any) -> Any:
    before = client._api_client
    after = _copy(before, _no_google_retry)
    parts = _asking_through(client, before, after)
    parts["_aio"] = _copy(client._aio, _lives_on, **_asking_through(client._aio, before, after))
    return _copy(client, _lives_on, **parts)


def _asking_through(holder: Any, before: Any, after: Any) -> dict[str, Any]:
    """Copies of the parts of a client that send through `before`, sending through `after`."""
    found: dict[str, Any] = {}
    for name, part in vars(holder).items():
        if part is before:
            found[name] = after
        elif getattr(part, "__dict__", {}).get("_api_client") is before:
            found[name] = _copy(part, _as_is, _api_client=after)
    return found


def _lives_on(cls: Any) -> dict[str, Any]:
    # What it shares with the original is closed by that one.
    return {"__del__": lambda client: None}


def _no_google_retry(cls: Any) -> dict[str, Any]:
    def retrying(name: str) -> property:
        def found(client: Any) -> Any:
            return _once if open_call() else client.__dict__[name]

        return property(found)

    async def session(client: Any) -> Any:
        found = await cls._get_aiohttp_session(client)
        return found if isinstance(found, _Session) else _Session(found)

    body = {"_retry": retrying("_retry"), "_async_retry": retrying("_async_retry")}
    return {**body, **_lives_on(cls), "_get_aiohttp_session": session}


def _once(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


class _Session:
    """An aiohttp session whose lost connections google-genai does not try again by itself."""

    def __init__(self, session: Any) -> None:
        self._inside = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_inside"], name)

    async def request(self, *args: Any, **kwargs: Any) -> Any:
        import aiohttp

        try:
            return await self._inside.request(*args, **kwargs)
        except aiohttp.ClientConnectionError as error:
            if not open_call():
                raise
            raise ConnectionError(str(error)) from error


# LiteLLM's, which makes clients of its own -------------------------------------------


def single_request(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a request through LiteLLM, which is made once inside a recorded call."""
    if not open_call():
        return parameters
    return {**parameters, "max_retries": 0, "num_retries": 0}


# instructor's, which asks through one of the above ------------------------------------


def one_attempt_of_instructor(instructor: Any) -> None:
    """Inside a recorded call `instructor`, a client that was made for one request, tries once.

    It has bound a method of what it asks through: a copy of that would not be asked.
    """
    if not open_call():
        return
    client = instructor.client
    if client is None:
        # LiteLLM's function. `max_retries` is what instructor calls its own.
        instructor.kwargs["num_retries"] = 0
    elif _has_options(client):
        client.__class__ = _derived(type(client), _no_max_retries)
    elif _is_botocore(client):
        client._endpoint = _copy(client._endpoint, _no_needs_retry)


_KINDS: list[tuple[Callable[[Any], bool], Callable[[Any], Any]]] = [
    (_has_options, _with_options),
    (_is_botocore, _botocore),
    (_is_azure, _azure),
    (_is_google, _google),
]
