"""What is private in crewAI's event bus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from crewai.events import event_context
from crewai.events.event_bus import crewai_event_bus
from crewai.events.event_listener import event_listener


def event_handlers() -> Iterator[tuple[str, Callable[..., Any]]]:
    """The handlers on the event bus, each with the name of its event; crewAI's own too."""
    bus: Any = crewai_event_bus
    for handlers in (dict(bus._sync_handlers), dict(bus._async_handlers)):
        for event, functions in handlers.items():
            for function in functions:
                yield event.__name__, function


def forget_tasks(tasks: Iterable[Any]) -> None:
    """Let go of tasks whose end crewAI was not told of: it keeps each one until then."""
    for task in tasks:
        event_listener.execution_spans.pop(task, None)


@contextmanager
def scope_kept() -> Iterator[None]:
    """After the block crewAI is in the event that it was in before.

    What ends with a signal past crewAI's `except Exception` has no event of its end. crewAI would
    take whatever comes next on the thread for a part of it, and refuse it at a depth of 100.
    """
    before = event_context._event_id_stack.get()
    try:
        yield
    finally:
        event_context.restore_event_scope(before)
