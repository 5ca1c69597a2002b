"""Reading events: from the start or from a number, while a run goes on or afterwards."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timezone

from crewai_dbos._events.event import ENDS_OF_RUNS, TOKENS, Event
from crewai_dbos._events.store import Row, Store
from crewai_dbos._stored.sealing import Open
from crewai_dbos.errors import SealedError

POLLING = 0.2
"""Seconds between two looks for more."""

PAGE = 500
"""Events that are read at a time."""

GRACE = 5.0
"""Seconds for which the last event is waited for of a run that has ended without one."""


def events(
    store: Store, open_: Open, run_id: str, after: int = 0, *, follow: bool = False
) -> Iterator[Event]:
    """The events of a run whose numbers are greater than `after`, in their order.

    Args:
        store: Where they are.
        open_: Reads what is encrypted.
        run_id: The run.
        after: The last number that the reader has.
        follow: Whether to wait for more until the run has ended.
    """
    pages = _Pages(store, open_, run_id, after, follow)
    while not pages.are_over:
        yield from pages.next()
        if pages.wait:
            time.sleep(pages.wait)


async def aevents(
    store: Store, open_: Open, run_id: str, after: int = 0, *, follow: bool = False
) -> AsyncIterator[Event]:
    """As `events`, for async code."""
    pages = _Pages(store, open_, run_id, after, follow)
    while not pages.are_over:
        for event in await asyncio.to_thread(pages.next):
            yield event
        if pages.wait:
            await asyncio.sleep(pages.wait)


def at_work(store: Store, open_: Open, run_id: str) -> list[Event]:
    """What of a run has begun and not ended: each with the event in which it has begun."""
    return [_event(row, open_) for row in store.unended(run_id)]


class _Pages:
    """The pages of events that one reader is given.

    Attributes:
        are_over: Whether there are no more.
        wait: For how long to wait before the next.
    """

    def __init__(self, store: Store, open_: Open, run_id: str, after: int, follow: bool) -> None:
        self._store = store
        self._open = open_
        self._run_id = run_id
        self._after = after
        self._follow = follow
        self._until: float | None = None
        self.are_over = False
        self.wait = 0.0

    def next(self) -> list[Event]:
        # Looked at before the events: what was written before its end is read after it, and the
        # last event, which somebody may write when the run has long ended, after it is seen.
        has_ended = self._follow and not self._store.is_alive(self._run_id)
        is_told = has_ended and self._is_told()
        found = [
            _event(row, self._open) for row in self._store.read(self._run_id, self._after, PAGE)
        ]
        self._after = found[-1].seq if found else self._after
        full = len(found) == PAGE
        self.are_over = not full and (not self._follow or is_told)
        self.wait = 0.0 if full or self.are_over else POLLING
        if not has_ended:
            self._until = None
        return found

    def _is_told(self) -> bool:
        """Whether no event is missing of the end; somebody may write it after a cancellation."""
        last = self._store.last_of_run(self._run_id)
        if last in ENDS_OF_RUNS:
            return True
        now = time.monotonic()
        if self._until is None:
            self._until = now + GRACE
        return now >= self._until


def _event(row: Row, open_: Open) -> Event:
    seq, run_id, type_, path, at_ms, stored = tuple(row)
    data = json.loads(stored)
    if type_ == TOKENS and "text" in data:
        try:
            data["text"] = open_(data["text"])
        except SealedError:
            del data["text"]
            data["sealed"] = True
    return Event(seq, run_id, type_, path, datetime.fromtimestamp(at_ms / 1000, timezone.utc), data)
