"""crewAI events in a run: a handler decorated with a DBOS step runs once for each event.

crewAI calls handlers on threads of its own, at any time and in any order. While a run emits an
event, the handlers get a place of their own in the run, named by the event and the handler, so
that a DBOS operation in them is found again on recovery and shifts no other.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from crewai.events.event_bus import crewai_event_bus

from crewai_dbos import _names
from crewai_dbos._scope import Scope, inside_call, open_call, running_scope

_INSTALLED = "_crewai_dbos_installed"

_emitting: ContextVar[Scope | None] = ContextVar("crewai_dbos_emitting", default=None)
_pending: ContextVar[list[Future[Any]] | None] = ContextVar("crewai_dbos_pending", default=None)


def install() -> None:
    """Put this module between the event bus and its handlers. Any number of times.

    Outside a run the bus works as before.
    """
    bus = crewai_event_bus
    if getattr(bus, _INSTALLED, False):
        return
    emit, call_handlers, acall_handlers = bus.emit, bus._call_handlers, bus._acall_handlers

    @functools.wraps(emit)
    def emit_in_place(source: Any, event: Any) -> Any:
        place = _place_of(event)
        if place is None:
            return emit(source, event)
        token = _emitting.set(place)
        try:
            # A handler is not part of the recorded call that emits its event.
            with inside_call(None), place.entered():
                future = emit(source, event)
        finally:
            _emitting.reset(token)
        _keep(future)
        return future

    @functools.wraps(call_handlers)
    def call_in_place(source: Any, event: Any, handlers: Any, state: Any) -> None:
        call_handlers(source, event, _placed(handlers), state)

    @functools.wraps(acall_handlers)
    async def acall_in_place(source: Any, event: Any, handlers: Any, state: Any) -> None:
        await acall_handlers(source, event, _placed(handlers), state)

    bus.__dict__.update(
        emit=emit_in_place, _call_handlers=call_in_place, _acall_handlers=acall_in_place
    )
    bus.__dict__[_INSTALLED] = True


@contextmanager
def handled() -> Iterator[None]:
    """When the block is left, the handlers of every event that it emitted have returned."""
    pending: list[Future[Any]] = []
    token = _pending.set(pending)
    try:
        yield
    finally:
        _pending.reset(token)
        wait(pending)


def _place_of(event: Any) -> Scope | None:
    """Where in the run `event` happens; None outside one."""
    scope = running_scope()
    if scope is None:
        return None
    call = open_call()
    path = call.name if call is not None else scope.path
    tool = getattr(event, "tool_name", None)
    content = None if tool is None else [tool, getattr(event, "tool_args", None)]
    what = _names.event(type(event).__name__, content)
    occurrence = scope.journal.count(path, what)
    return Scope(scope.journal, _names.numbered(path, what, occurrence))


def _keep(future: Any) -> None:
    pending = _pending.get()
    if pending is None or not isinstance(future, Future):
        return
    pending.append(future)
    if len(pending) > 1000:
        pending[:] = [unfinished for unfinished in pending if not unfinished.done()]


def _placed(handlers: Any) -> Any:
    if _emitting.get() is None:
        return handlers
    return frozenset(_in_place(handler) for handler in handlers)


@lru_cache(maxsize=1024)
def _in_place(handler: Callable[..., Any]) -> Callable[..., Any]:
    """`handler`, run in a place of its own under the event that is being emitted."""
    what = _names.handler(getattr(handler, "__qualname__", type(handler).__qualname__))

    if inspect.iscoroutinefunction(handler):

        @functools.wraps(handler)
        async def arun(*args: Any) -> Any:
            with _emitted_place().child(what).entered():
                return await handler(*args)

        return arun

    @functools.wraps(handler)
    def run(*args: Any) -> Any:
        with _emitted_place().child(what).entered():
            return handler(*args)

    return run


def _emitted_place() -> Scope:
    place = _emitting.get()
    assert place is not None
    return place
