"""What of a run is at work, and what only waits for a person.

Work nests: a method of a flow makes a call, which asks a person. Work stands still while something
inside it is at work that it has called itself, on its own thread or asyncio task; then that counts.
What it has begun beside itself does not hold it up: both count. A run in which nothing is at work
but waits can be left to its row.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from crewai_dbos._journal.latch import Latch
from crewai_dbos._journal.place import Place
from crewai_dbos._leases import RunVar
from crewai_dbos._setting import setting
from crewai_dbos._threads import ThreadOrTask


@dataclass(eq=False)
class _Work:
    """Something that is at work.

    Attributes:
        activity: Of what run.
        calling: How many things are at work that it waits for.
        waits: Whether it waits for a person.
        place: Where it is at work.
    """

    activity: Activity
    calling: int = 0
    waits: bool = False
    place: Place = field(default_factory=lambda: Place("", runs_on=ThreadOrTask.here()))


_work: RunVar[_Work | None] = RunVar("crewai_dbos_work", default=None)


class Activity:
    """What one execution of a run is doing.

    Args:
        latch: What has ended the run: no work begins after that.
    """

    def __init__(self, latch: Latch) -> None:
        self._latch = latch
        self._lock = threading.RLock()
        self._at_work: set[_Work] = set()
        self._since = time.monotonic()

    @contextmanager
    def working(self, *, after_end: bool = False) -> Iterator[None]:
        """The block is at work.

        Args:
            after_end: Whether it begins also when the run is over.

        Raises:
            ControlSignal: The run is over.
        """
        work, caller = _Work(self), _work.get()
        if caller is not None and (caller.activity is not self or not caller.place.is_alone_here()):
            caller = None
        with self._changing():
            if not after_end:
                self._latch.raise_if_over()
            self._at_work.add(work)
            if caller is not None:
                caller.calling += 1
        try:
            with setting(_work, work):
                yield
        finally:
            with self._changing():
                self._at_work.discard(work)
                if caller is not None:
                    caller.calling -= 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block, inside `working`, does nothing but wait for a person."""
        work = _work.get()
        assert work is not None
        with self._changing():
            work.waits = True
        try:
            yield
        finally:
            with self._changing():
                work.waits = False

    @contextmanager
    def held(self) -> Iterator[float | None]:
        """In the block no work begins or ends.

        Yields:
            For how many seconds everything has waited; None if something is at work.
        """
        with self._lock:
            busy = any(not work.waits and not work.calling for work in self._at_work)
            yield None if busy else time.monotonic() - self._since

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock:
            yield
            self._since = time.monotonic()
