"""Jobs that go through a queue to a worker thread: each is recorded in the run that it came from.

A worker serves the whole application, so who started it says nothing. A queue that a run has put
something in remembers of everything in it who put it there. A thread whose main function takes it
out then works in that place, until it takes out the next. Other threads only take results.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from crewai_dbos import _leases
from crewai_dbos._leases import Lease, Term
from crewai_dbos._main_functions import is_served

_JOBS = "_crewai_dbos_jobs"
_TAKERS = "_crewai_dbos_takers"

_BESIDE = (__name__, "queue", "asyncio.queues")

_lock = threading.RLock()


def putting(original: Callable[..., Any]) -> Callable[..., Any]:
    """A method that puts something into a queue; it remembers for which run."""
    # Most queues have nothing to do with runs: what is looked at for them is near at hand.
    terms = _leases.terms

    @functools.wraps(original)
    def put(self: Any, item: Any, *args: Any, **kwargs: Any) -> Any:
        if terms:
            _watch_if_job(self, item)
        return original(self, item, *args, **kwargs)

    return put


def getting(original: Callable[..., Any]) -> Callable[..., Any]:
    """A method that takes something out of a queue; who does so works for the run it is of."""
    terms, held = _leases.terms, _leases.held

    @functools.wraps(original)
    def get(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not terms and held() is None:
            return original(self, *args, **kwargs)
        if not is_served(sys._getframe(1), _BESIDE):
            _note_taker(self)
            return original(self, *args, **kwargs)
        _finish_job(self)
        item = original(self, *args, **kwargs)
        if _JOBS not in self.__dict__:
            _note_taken(self, item)
        return item

    return get


def _finish_job(queue: Any) -> None:
    lease = _leases.held()
    if lease is not None and lease.queue is not None and lease.queue() is queue:
        _leases.begin(_leases.own())


def _note_taker(queue: Any) -> None:
    term = _leases.term.get()
    if term is not None and _JOBS not in queue.__dict__:
        queue.__dict__.setdefault(_TAKERS, weakref.WeakSet()).add(term)


def _note_taken(queue: Any, item: Any) -> None:
    term = _leases.term.get()
    if term is not None:
        term.taken.append((queue, item))
    elif _leases.is_lost():
        # No run has put it there.
        _leases.begin(None)


def _watch_if_job(queue: Any, item: Any) -> None:
    if _JOBS in queue.__dict__:
        return
    term = _leases.term.get()
    if term is not None and not _is_given_back(queue, item, term):
        with _lock:
            if _JOBS not in queue.__dict__:
                queue.__dict__[_JOBS] = _Jobs(queue)


def _is_given_back(queue: Any, item: Any, term: Term) -> bool:
    """Whether the queue is where `term` gets things from, as clients or permits of a pool."""
    if term in queue.__dict__.get(_TAKERS, ()):
        return True
    return any(of is queue and taken is item for of, taken in term.taken)


class _Jobs:
    """Who put what into one queue, for as long as it is in there.

    The queue calls `put` and `get` when nobody else works on it.
    """

    def __init__(self, queue: Any) -> None:
        self._queue = weakref.ref(queue)
        cls = type(queue)
        self._put, self._get = cls._put, cls._get
        self._waiting: dict[int, deque[tuple[Any, Lease | None]]] = {}
        # A thread that has long been waiting for the first job calls this one, too.
        queue._get, queue._put = self.get, self.put

    def put(self, item: Any) -> None:
        before = self._size()
        self._put(self._queue(), item)
        if self._size() == before:
            return
        term = _leases.term.get()
        lease = None if term is None else term.lease()
        if lease is not None:
            lease.queue = self._queue
        self._waiting.setdefault(id(item), deque()).append((item, lease))

    def get(self) -> Any:
        item = self._get(self._queue())
        lease = self._owner(item)
        if not self._size():
            self._waiting.clear()
        if is_served(sys._getframe(1), _BESIDE):
            _leases.begin(lease)
        return item

    def _size(self) -> int:
        queue: Any = self._queue()
        return int(queue._qsize() if hasattr(queue, "_qsize") else queue.qsize())

    def _owner(self, item: Any) -> Lease | None:
        waiting = self._waiting.get(id(item))
        if not waiting:
            return None
        _, lease = waiting.popleft()
        if not waiting:
            del self._waiting[id(item)]
        return lease
