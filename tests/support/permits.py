"""A library's pool of things that are few, kept in a queue, as HTTP clients keep connections."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager


class Permits:
    def __init__(self, count: int) -> None:
        self._left: queue.Queue[object] = queue.LifoQueue()
        for _ in range(count):
            self._left.put(None)

    @contextmanager
    def one(self) -> Iterator[None]:
        """The block has one. A new object is put back, not the one that was taken."""
        self._left.get()
        try:
            yield
        finally:
            self._left.put(object())
