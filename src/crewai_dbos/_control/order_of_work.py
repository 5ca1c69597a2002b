"""What a crew or a flow was made of, as its run has recorded it: what follows from what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Emitted = Callable[[str], set[str] | None]
"""What the executions of a router have returned; None where that is not known."""


def tasks_after(tasks: list[Mapping[str, Any]], number: int) -> set[int]:
    """The tasks that see the output of the `number`-th one, or of one that does; numbers from 1.

    Args:
        tasks: As the fingerprint of a crew has them.
    """
    found = {number}
    for later in range(number + 1, len(tasks) + 1):
        if not found.isdisjoint(_seen_by(tasks, later)):
            found.add(later)
    return found - {number}


def _seen_by(tasks: list[Mapping[str, Any]], number: int) -> Iterable[int]:
    """The tasks whose outputs the `number`-th is given."""
    task, before = tasks[number - 1], range(1, number)
    if task.get("conditional"):
        return before
    if task.get("context"):
        return [each for each in task["context"] if type(each) is int]
    if task.get("alone"):
        return ()
    if task.get("async"):
        # It begins before those beside it have ended.
        return [each for each in before if not tasks[each - 1].get("async")][-1:]
    return before


class Triggers:
    """Which methods of a flow may follow from the end of another.

    A method follows when it listens to the other, or to what that one has returned as a router. It
    also does when crewAI's engine waits for the other: it runs the routers of an event one after
    the other, then the listeners, then those of what the routers returned, each with all that
    follows from it.

    Args:
        methods: As the fingerprint of a flow has them.
        emitted: What routers have returned.
    """

    def __init__(self, methods: Mapping[str, Mapping[str, Any]], emitted: Emitted) -> None:
        self._events = {name: _events(method) for name, method in methods.items()}
        self._routers = {name for name, method in methods.items() if method.get("router")}
        self._emitted = {name: emitted(name) for name in self._routers}
        self._next = {name: self._triggered_by(name) for name in methods}
        self._waiting: dict[str, set[str]] = {name: set() for name in methods}
        for event in {*methods, *(e for events in self._events.values() for e in events)}:
            self._note_waits(event)
        for router in self._routers:
            self._wait(self._listening_to({router}), self._named_by({router}))

    def after(self, method: str) -> set[str]:
        """The methods that may begin only when `method` has ended."""
        if method not in self._next:
            return set(self._next)
        return self._next[method] | self._waiting[method]

    def _listening_to(self, events: set[str]) -> set[str]:
        return {name for name, own in self._events.items() if own & events}

    def _named_by(self, routers: set[str]) -> set[str]:
        """The methods that listen to what routers have returned."""
        found: set[str] = set()
        for router in routers:
            emitted = self._emitted[router]
            for method, own in self._events.items():
                if own and (emitted is None or own & emitted):
                    found.add(method)
        return found

    def _triggered_by(self, method: str) -> set[str]:
        found = self._listening_to({method})
        return found | self._named_by({method}) if method in self._routers else found

    def _note_waits(self, event: str) -> None:
        listening = self._listening_to({event})
        routers = listening & self._routers
        if not routers:
            return
        chain = self._chain(routers)
        named = self._named_by(chain & self._routers)
        self._wait(routers, listening | named)
        self._wait(listening - routers, named)

    def _wait(self, for_these: set[str], waiting: set[str]) -> None:
        for method in self._chain(for_these):
            self._waiting[method] |= waiting

    def _chain(self, methods: set[str]) -> set[str]:
        found, left = set(methods), list(methods)
        while left:
            new = self._next[left.pop()] - found
            found |= new
            left += new
        return found


def _events(method: Mapping[str, Any]) -> set[str]:
    """The names that set a method going."""
    return {text for aspect in ("start", "listen") for text in texts(method.get(aspect))}


def texts(data: Any) -> set[str]:
    """Every text in JSON data that is no key of an object."""
    if isinstance(data, str):
        return {data}
    inside = data.values() if isinstance(data, Mapping) else data if isinstance(data, list) else ()
    return {text for item in inside for text in texts(item)}
