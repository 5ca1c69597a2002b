"""crewAI events in a run: a handler decorated with a DBOS step runs once for each event.

crewAI calls handlers on threads of its own, at any time and in any order. While a run emits an
event, the handlers get a place of their own in the run, named by the event and the handler, so
that a DBOS operation in them is found again on recovery and shifts no other.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from crewai.events.event_bus import CrewAIEventsBus
from crewai.events.types.llm_events import LLMCallStartedEvent, LLMStreamChunkEvent

from crewai_dbos._classes import durable_class, overrides
from crewai_dbos._functions import name_of
from crewai_dbos._journal import background, run_scope
from crewai_dbos._journal.open_calls import inside_call, open_call
from crewai_dbos._journal.scope import Scope
from crewai_dbos._leases import RunVar
from crewai_dbos._objects.llm_request import note_unrecorded
from crewai_dbos._setting import setting
from crewai_dbos._stored import names

_emitting: RunVar[Scope | None] = RunVar("crewai_dbos_emitting", default=None)
_pending: RunVar[list[Future[None]] | None] = RunVar("crewai_dbos_pending", default=None)


def placing(cls: type) -> type:
    """The class of the event bus, with this module between it and its handlers."""
    return durable_class(_PlacedHandlers, cls)


@contextmanager
def handled() -> Iterator[None]:
    """When the block is left, the handlers of every event that it emitted have returned."""
    pending: list[Future[None]] = []
    try:
        with setting(_pending, pending):
            yield
    finally:
        wait(pending)


if TYPE_CHECKING:
    _Base = CrewAIEventsBus
else:
    _Base = object


@overrides(CrewAIEventsBus)
class _PlacedHandlers(_Base):
    """Overrides of crewAI's event bus."""

    def emit(self, source: Any, event: Any) -> Any:
        original = super().emit
        _tell(event)
        note_unrecorded(event)
        place = _place_of(event)
        if place is None:
            return original(source, event)
        with setting(_emitting, place):
            # A handler is not part of the recorded call that emits its event.
            with inside_call(None), background.apart(), place.entered():
                future = original(source, event)
            if future is None:
                return None
            future = _kept(future)
            # Of handlers that depend on each other, the later ones are looked up only then.
            _await(future)
            return future

    # The bus looks these two up when it schedules handlers. It hands out a future for only one of
    # them, so each lookup counts as work to wait for.

    @property
    def _call_handlers(self) -> Callable[..., None]:
        original: Callable[..., None] = super()._call_handlers
        if _emitting.get() is None:
            return original
        done = _awaited()

        def call(source: Any, event: Any, handlers: Any, state: Any) -> None:
            try:
                original(source, event, frozenset(map(_in_place, handlers)), state)
            finally:
                done.set_result(None)

        return call

    @property
    def _acall_handlers(self) -> Callable[..., Coroutine[Any, Any, None]]:
        original: Callable[..., Coroutine[Any, Any, None]] = super()._acall_handlers
        if _emitting.get() is None:
            return original
        done = _awaited()

        async def call(source: Any, event: Any, handlers: Any, state: Any) -> None:
            try:
                await original(source, event, frozenset(map(_in_place, handlers)), state)
            finally:
                done.set_result(None)

        return call


def _tell(event: Any) -> None:
    """Those who listen to a run are told of the pieces of an answer that an LLM streams."""
    if not isinstance(event, (LLMCallStartedEvent, LLMStreamChunkEvent)):
        return
    scope, call = run_scope.around(), open_call()
    if scope is None or call is None:
        return
    if isinstance(event, LLMCallStartedEvent):
        scope.journal.listeners.asks(call.name)
    elif event.tool_call is None:
        scope.journal.listeners.hears(call.name, event.chunk)


def _awaited() -> Future[None]:
    """A future that the run waits for before it ends."""
    done: Future[None] = Future()
    _await(done)
    return done


def _kept(future: Future[None]) -> Future[None]:
    """`future` of handlers, which whoever waits for it can't cancel.

    crewAI's flows wait for handlers. When such a wait is cancelled, handlers that have not begun
    would be dropped, and the run wait for them for ever.
    """
    kept: Future[None] = Future()
    kept.set_running_or_notify_cancel()

    def end(future: Future[None]) -> None:
        error = CancelledError() if future.cancelled() else future.exception()
        if error is None:
            kept.set_result(None)
        else:
            kept.set_exception(error)

    future.add_done_callback(end)
    return kept


def _await(future: Future[None]) -> None:
    pending = _pending.get()
    if pending is None:
        return
    pending.append(future)
    if len(pending) > 1000:
        pending[:] = [unfinished for unfinished in pending if not unfinished.done()]


def _place_of(event: Any) -> Scope | None:
    """Where in the run `event` happens; None outside one."""
    scope = run_scope.around()
    if scope is None:
        return None
    call = open_call()
    path = call.name if call is not None else scope.path
    tool = getattr(event, "tool_name", None)
    content = None if tool is None else [tool, getattr(event, "tool_args", None)]
    what = names.event(type(event).__name__, content)
    return scope.beside(path, what)


@lru_cache(maxsize=256)
def _in_place(handler: Callable[..., Any]) -> Callable[..., Any]:
    """`handler`, run in a place of its own under the event that is being emitted."""
    name = name_of(handler)
    # Handlers made by one function differ in what they close over.
    closed_over = (
        inspect.getclosurevars(unwrapped).nonlocals
        if inspect.isroutine(handler) and inspect.isfunction(unwrapped := inspect.unwrap(handler))
        else {}
    )
    plain = {name: value for name, value in closed_over.items() if _is_plain(value)}
    what = names.handler(name)
    if plain:
        what = names.by_content(what, plain)

    if inspect.iscoroutinefunction(handler):

        @functools.wraps(handler)
        async def arun(*args: Any) -> Any:
            with _at_work(what):
                return await handler(*args)

        return arun

    @functools.wraps(handler)
    def run(*args: Any) -> Any:
        with _at_work(what):
            return handler(*args)

    return run


@contextmanager
def _at_work(handler: str) -> Iterator[None]:
    """The block is a handler, by the name that it has in the run."""
    scope = _emitted_place().child(handler)
    with scope.journal.activity.working(after_end=True), scope.entered():
        yield


def _is_plain(value: Any) -> bool:
    """Whether `value` is the same in every process; an object may have a random id."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    return value is None or isinstance(value, (str, int, float, bytes))


def _emitted_place() -> Scope:
    place = _emitting.get()
    assert place is not None
    return place
