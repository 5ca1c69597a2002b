"""Where in a run the code is: a path, carried by a context variable into every thread and task.

A `Scope` is one sequential branch of the work, or, when it says so, a place where things happen at
the same time. It also is the position that DBOS sees: any DBOS operation that user code makes in it
is *pinned*, that is, given a step id that is found again on recovery by the scope's path, not by
the order in which threads happen to arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crewai_dbos._dbos_seam import DBOSContext, using_context
from crewai_dbos._leases import RunVar, held
from crewai_dbos._threads import Strand

if TYPE_CHECKING:
    from crewai_dbos._journal.entry import Call
    from crewai_dbos._journal.journal import Journal


class Scope:
    """One place in a run.

    Args:
        journal: The run's journal.
        path: Where, "" for the run itself.
        ordered: Whether calls here follow one another. If not, each is named by its content.
        around: The scope that a tool call belongs to whose hooks and events are here.
        strand: The only thread or asyncio task that makes one call after the other here, if there
            is one. Calls from others are named by their content; their DBOS operations, which have
            none, are refused.
    """

    def __init__(
        self,
        journal: Journal,
        path: str,
        *,
        ordered: bool = True,
        around: Scope | None = None,
        strand: Strand | None = None,
    ) -> None:
        self.journal = journal
        self.path = path
        self.ordered = ordered
        self.around = around
        self.strand = strand
        self._task: asyncio.Task[Any] | None = None
        self.context = _PinningContext.at(self)

    def child(
        self,
        what: str,
        *,
        ordered: bool = True,
        around: Scope | None = None,
        strand: Strand | None = None,
    ) -> Scope:
        """The next `what` inside this scope, as a scope of its own."""
        path = self.journal.record.next_path(self.path, what)
        return Scope(self.journal, path, ordered=ordered, around=around, strand=strand)

    def is_alone_here(self) -> bool:
        """Whether DBOS operations made here come one after the other."""
        own, here = self.strand, Strand.here()
        if own is None or own == here:
            return True
        if own.task is not None or own.thread != here.thread or here.task is None:
            return False
        # An event loop that sync code runs: the task in it that comes first, and no other.
        if self._task is None or self._task.get_loop() is not here.task.get_loop():
            self._task = here.task
        return self._task is here.task

    def told_apart(self, call: Call) -> Call:
        """`call`, named by its content where it may come beside others."""
        follows = self.strand is None or self.strand == Strand.here()
        return call if call.concurrent or follows else call.by_content()

    @contextmanager
    def entered(self) -> Iterator[Scope]:
        token = _scope.set(self)
        try:
            with using_context(self.context):
                yield self
        finally:
            _scope.reset(token)


@dataclass(frozen=True)
class OpenCall:
    """The recorded call whose body is running on this thread or task."""

    run_id: str
    name: str


_scope: RunVar[Scope | None] = RunVar("crewai_dbos_scope", default=None)
_open_call: RunVar[OpenCall | None] = RunVar("crewai_dbos_open_call", default=None)
_open_summary: RunVar[OpenCall | None] = RunVar("crewai_dbos_open_summary", default=None)


def last_entered() -> Scope | None:
    """The scope entered last; inside a recorded call, the scope of that call.

    Code that DBOS runs in another workflow since then is not in it: see `run_scope`.
    """
    return _scope.get()


def open_call() -> OpenCall | None:
    """The recorded call whose body is running; None in between."""
    return _open_call.get()


def open_summary() -> OpenCall | None:
    """The call that is being made up of other recorded calls; None outside of one."""
    return _open_summary.get()


def lent_context() -> Context | None:
    """The context in which this thread makes a call for another; None where it is in it already."""
    lease = held()
    if lease is None or not lease.worker or _scope.is_set_here() or _open_call.is_set_here():
        return None
    context = lease.context
    return None if context is None else context.copy()


@contextmanager
def inside_summary(call: OpenCall) -> Iterator[None]:
    """The block is the body of `call`: what is recorded in it comes first, then its outcome."""
    token = _open_summary.set(call)
    try:
        yield
    finally:
        _open_summary.reset(token)


@contextmanager
def inside_call(call: OpenCall | None) -> Iterator[None]:
    """The block is the body of `call`: nothing in it is recorded on its own."""
    token = _open_call.set(call)
    try:
        yield
    finally:
        _open_call.reset(token)


class _PinningContext(DBOSContext):
    """The workflow's context, except that every step id it hands out is pinned by the journal."""

    _scope: Scope

    @classmethod
    def at(cls, scope: Scope) -> _PinningContext:
        context = cls.__new__(cls)
        context.__dict__.update(scope.journal.root.__dict__)
        context.__dict__["_scope"] = scope
        return context

    # DBOS draws an id either by `snapshot_step_ctx` or by `function_id += 1`.

    @property
    def function_id(self) -> int:
        return int(self.__dict__["function_id"])

    @function_id.setter
    def function_id(self, value: int) -> None:
        self.__dict__["function_id"] = self._scope.journal.pin(self._scope, 1)

    def snapshot_step_ctx(self, reserve_sleep_id: bool = False) -> DBOSContext:
        first = self._scope.journal.pin(self._scope, 2 if reserve_sleep_id else 1)
        position = DBOSContext.__new__(DBOSContext)
        position.__dict__.update({k: v for k, v in self.__dict__.items() if k != "_scope"})
        position.function_id = first - 1
        snapshot = position.snapshot_step_ctx(reserve_sleep_id)
        checked = _PinnedStepContext.__new__(_PinnedStepContext)
        checked.__dict__.update(snapshot.__dict__)
        checked.__dict__["_journal"] = self._scope.journal
        return checked


class _PinnedStepContext(DBOSContext):
    """A pinned step: DBOS compares its name on recovery, and we do so first.

    DBOS's own error is an `Exception`, which crewAI would hand to the model as text.
    """

    _journal: Journal

    def start_step(self, fid: int, attributes: Any) -> None:
        self._journal.check_pinned(fid, attributes["name"])
        super().start_step(fid, attributes)
