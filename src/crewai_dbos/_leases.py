"""What other threads see of a run: lent to them, and given back when the run needs it no more.

What a thread has copied of a context is the thread's for as long as it lives, and it may serve the
whole application. So what a run keeps in context variables is not copied into threads and jobs:
they get a `Lease`, through which a `RunVar` is looked up. When the method has ended that started
them, its leases end, wherever they are held.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Iterator
from contextvars import Context, ContextVar, Token
from types import CodeType
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakSet, ref

T = TypeVar("T")

_UNSET: Any = object()
_OVER: Any = object()

_lock = threading.RLock()


class Lease:
    """A place in a run that is lent to one thread or job.

    Attributes:
        context: The context of whoever lent it; None once it has ended.
        main: The code of the job, if it is one of a pool.
        worker: Whether the thread has nothing else of the lender's context.
        queue: The queue that the job was handed over in, if it was.
    """

    def __init__(
        self, context: Context, *, main: CodeType | None = None, worker: bool = True
    ) -> None:
        self.context: Context | None = context
        self.main = main
        self.worker = worker
        self.queue: ref[Any] | None = None
        self._copies: dict[Lent, Any] = {}

    def copy_of(self, what: Lent) -> Any:
        """The copy that is lent of something; None once the lease has ended."""
        with _lock:
            if self.context is None:
                return None
            if what not in self._copies:
                self._copies[what] = what.copied(self.context)
            return self._copies[what]

    def end(self) -> None:
        with _lock:
            self.context = None
            copies, self._copies = self._copies, {}
        for what, copied in copies.items():
            what.empty(copied)


class Lent(Protocol):
    """Something that belongs to the place of a run in which code is."""

    def lend(self, lease: Lease | None) -> None:
        """From here on it is what `lease` says; without one it is nothing."""

    def copied(self, context: Context) -> Any:
        """What is lent of it, if that can't be looked up."""

    def empty(self, copied: Any) -> None:
        """Take everything out of a copy that was lent."""


lent: list[Lent] = []
"""All there is."""

_lease: ContextVar[Lease | None] = ContextVar("crewai_dbos_lease", default=None)
_own: ContextVar[Lease | None] = ContextVar("crewai_dbos_own_lease", default=None)


class RunVar(Generic[T]):
    """A context variable of a run's, which threads that a method starts see on lease."""

    def __init__(self, name: str, *, default: T) -> None:
        self._var: ContextVar[Any] = ContextVar(name, default=_UNSET)
        self._default = default
        lent.append(self)

    def get(self) -> T:
        found = self.find()
        return self._default if found is _UNSET or found is _OVER else found

    def set(self, value: T) -> Token[Any]:
        return self._var.set(value)

    def reset(self, token: Token[Any]) -> None:
        self._var.reset(token)

    def is_set_here(self) -> bool:
        """Whether its value is this context's own, and not lent to it."""
        return self._var.get() is not _UNSET

    def find(self) -> Any:
        found, lease = self._var.get(), _lease.get()
        while found is _UNSET and lease is not None:
            context = lease.context
            if context is None:
                return _OVER
            found, lease = context.get(self._var, _UNSET), context.get(_lease)
        return found

    def lend(self, lease: Lease | None) -> None:
        self._var.set(_UNSET)

    def copied(self, context: Context) -> None:
        """Nothing: it is looked up."""

    def empty(self, copied: None) -> None:
        """There is nothing."""


class Term:
    """The time for which a block lends its place.

    Args:
        outer: The term that it is part of.

    Attributes:
        run: The outermost one: a whole run of a flow.
        ended: Whether it is over.
        taken: What was last taken from queues in it, each with its queue.
    """

    def __init__(self, outer: Term | None) -> None:
        self.run: Term = self if outer is None else outer.run
        self.ended = False
        self.taken: deque[tuple[Any, Any]] = deque(maxlen=64)
        self._leases: WeakSet[Lease] = WeakSet()
        self._lock = threading.RLock()

    def lease(self, **options: Any) -> Lease:
        """The place that is here, for another thread; of no use if the term has ended."""
        lease = Lease(contextvars.copy_context(), **options)
        with self._lock:
            self._leases.add(lease)
            ended = self.ended
        if ended:
            lease.end()
        return lease

    def end(self) -> None:
        with self._lock:
            self.ended = True
            leases = list(self._leases)
        self.taken.clear()
        for lease in leases:
            lease.end()


term: RunVar[Term | None] = RunVar("crewai_dbos_term", default=None)
"""The term that the running code is in."""

_open: set[Term] = set()
_methods: set[Term] = set()


def any_open() -> bool:
    """Whether any run of a flow is under way in this process."""
    return bool(_open)


def methods_at_work() -> bool:
    """Whether any method of a durable flow is at work in this process."""
    return bool(_methods)


@contextlib.contextmanager
def lending(*, method: bool) -> Iterator[None]:
    """The block is a term.

    Args:
        method: Whether it is a method at work.
    """
    own = Term(term.get())
    token = term.set(own)
    with _lock:
        _open.add(own)
        if method:
            _methods.add(own)
    try:
        yield
    finally:
        with _lock:
            _open.discard(own)
            _methods.discard(own)
        own.end()
        term.reset(token)


def begin(lease: Lease | None) -> None:
    """From here on this thread or task works for whoever lent it `lease`, or for nobody (None)."""
    if lease is None and term.find() is _UNSET:
        return
    _lease.set(lease)
    for what in lent:
        what.lend(lease)


def begin_thread(lease: Lease) -> None:
    """As `begin`, at the beginning of the thread or job that has been lent `lease`."""
    _own.set(lease)
    begin(lease)


def held() -> Lease | None:
    """The lease under which this thread works; it may have ended."""
    return _lease.get()


def own() -> Lease | None:
    """The lease that this thread or job began with."""
    return _own.get()


def is_lost() -> bool:
    """Whether this thread or task came from a run that has let it go since."""
    found = term.find()
    return found is _OVER or (isinstance(found, Term) and found.run.ended)
