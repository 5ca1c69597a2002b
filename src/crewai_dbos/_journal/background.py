"""What code has set going in the background, which has to have ended before its end is recorded.

Otherwise nobody would ask for the rest after a crash: what is recorded to have ended is not run
again.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from crewai_dbos._leases import RunVar
from crewai_dbos._setting import setting
from crewai_dbos._threads import on_a_thread


class Background:
    """The work that a block of code has set going and has not waited for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[concurrent.futures.Future[Any]] = set()

    def add(self, work: concurrent.futures.Future[Any]) -> None:
        with self._lock:
            self._open.add(work)
        work.add_done_callback(self._remove)

    def _remove(self, work: concurrent.futures.Future[Any]) -> None:
        with self._lock:
            self._open.discard(work)

    def _left(self) -> set[concurrent.futures.Future[Any]]:
        with self._lock:
            return set(self._open)

    def wait(self) -> None:
        """Wait until all of it has ended, however it did."""
        while left := self._left():
            concurrent.futures.wait(left)

    async def await_end(self) -> None:
        """As `wait`, for async code."""
        if self._left():
            await on_a_thread(self.wait)


_background: RunVar[Background | None] = RunVar("crewai_dbos_background", default=None)


def begun(work: concurrent.futures.Future[Any]) -> None:
    """`work` has been set going here: whoever records an end around it waits for it."""
    background = _background.get()
    if background is not None:
        background.add(work)


def apart() -> AbstractContextManager[Any]:
    """What the block sets going in the background is waited for by nobody."""
    return setting(_background, None)


@contextmanager
def collecting() -> Iterator[Background]:
    """The block's background is its own."""
    with setting(_background, Background()) as background:
        yield background
