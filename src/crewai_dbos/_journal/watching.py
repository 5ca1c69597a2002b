"""Calls are left when their run is cancelled, or another execution has it: nobody waits for them.

One thread looks every half second how the runs stand whose calls are being made in this process,
as long as there are any. So a run in which all is quick is never looked up: whoever records an
entry knows that the run was still its own. A call begins only where that was so a moment ago.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from dbos import error as dbos_errors

from crewai_dbos import _clock
from crewai_dbos._dbos_seam.context import detached
from crewai_dbos._dbos_seam.database import (
    CANCELLED,
    DELAYED,
    Database,
    RunRow,
    launched_database,
)
from crewai_dbos._dbos_seam.instance import has_left_database
from crewai_dbos._dbos_seam.stopping import cancels
from crewai_dbos._journal.latch import Latch
from crewai_dbos._reused_threads import run_on_thread
from crewai_dbos._threads import ThreadOrTask, act_for, on_a_thread, start_thread

logger = logging.getLogger("crewai_dbos")

T = TypeVar("T")

LOOKING = 0.5
"""Seconds between two looks at the runs."""

RECENT = 0.25
"""Seconds for which a run that was seen to be this execution's is taken to be so."""


class Moment(NamedTuple):
    """When a run was looked at.

    Attributes:
        cancels: How often this process had cancelled runs.
        seconds: Of `_clock`.
    """

    cancels: int
    seconds: float

    @classmethod
    def now(cls) -> Moment:
        return cls(cancels(), _clock.seconds())


NEVER = Moment(-1, 0.0)


@dataclass(eq=False)
class Execution:
    """One time that DBOS runs the function of a workflow.

    Attributes:
        run_id: The workflow's id.
        owner_xid: By what DBOS knows this execution; None if it does not.
        latch: What has ended it.
    """

    run_id: str
    owner_xid: str | None
    latch: Latch
    _last_seen: Moment = field(default=NEVER, init=False)

    def goes_on(self, at: Moment) -> None:
        """The run was still this execution's `at` that moment, or later."""
        self._last_seen = max(self._last_seen, at)

    def check(self, *, surely: bool = False) -> None:
        """Return if a call may begin: a moment ago the run was this execution's.

        This asks the database, and waits for it, if nothing has told so lately. What stood still
        meanwhile, this process or its machine, has lost that moment.

        Args:
            surely: Whether the database is asked, whatever was told lately.

        Raises:
            ControlSignal: The run is over.
        """
        self.latch.raise_if_over()
        if not surely and self._is_recent():
            return
        try:
            at, database = Moment.now(), launched_database()
            row = database.patiently(lambda: _rows(database, {self.run_id})).get(self.run_id)
            error = self.lost_to(row)
        except Exception as raised:
            error = raised
        if error is not None:
            self.latch.fail(error)
        self.goes_on(at)

    async def acheck(self) -> None:
        """As `check`, for async code: an event loop does not wait for the database."""
        self.latch.raise_if_over()
        if not self._is_recent():
            await on_a_thread(self.check)

    def _is_recent(self) -> bool:
        seen, now = self._last_seen, Moment.now()
        return seen.cancels == now.cancels and now.seconds - seen.seconds < RECENT

    def lost_to(self, row: RunRow | None) -> BaseException | None:
        """What ends this execution, as the row of the run is now; None if it may go on."""
        if row is not None and row.owner_xid == self.owner_xid:
            return None
        if row is not None and row.status == CANCELLED:
            return dbos_errors.DBOSWorkflowCancelledError(f"Workflow {self.run_id} was cancelled")
        return dbos_errors.DBOSWorkflowConflictIDError(self.run_id)


class Stay:
    """A call that is being made, or something else that is left when its run is over."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._leave: set[Callable[[], None]] = set()

    def end(self, error: BaseException) -> None:
        """The run is over: leave what can be left."""
        self.execution.latch.note(error)
        with self._lock:
            if self._over.is_set():
                return  # what cleans up meanwhile is not asked twice
            self._over.set()
            leave = list(self._leave)
        for each in leave:
            each()

    def raise_if_over(self) -> None:
        """
        Raises:
            ControlSignal: The run is over.
        """
        if self._over.is_set():
            self.execution.latch.raise_if_over()

    def sleep(self, seconds: float) -> None:
        """Wait, unless the run is over before."""
        self._over.wait(seconds)
        self.raise_if_over()

    @contextmanager
    def leaving(self, leave: Callable[[], None]) -> Iterator[None]:
        """In the block `leave` is called, on another thread, when the run is over."""
        with self._lock:
            self._leave.add(leave)
            over = self._over.is_set()
        if over:
            leave()
        try:
            yield
        finally:
            with self._lock:
                self._leave.discard(leave)

    def waiting_for(self, function: Callable[[], T]) -> T:
        """What blocking `function` returns, which is left behind on its thread if the run is over.

        Raises:
            ControlSignal: It is.
        """
        ended: Future[T] = Future()
        context, here = contextvars.copy_context(), ThreadOrTask.here().thread

        def work() -> Callable[[], None]:
            act_for(here)
            try:
                return partial(_settle, ended.set_result, function())
            except BaseException as error:
                return partial(_settle, ended.set_exception, error)

        with self.leaving(lambda: _settle(ended.set_exception, _Left())):
            run_on_thread(work, context)
            try:
                return ended.result()
            except _Left:
                self.raise_if_over()
                raise
            finally:
                _take_over(context)

    async def awaiting(self, work: Awaitable[T]) -> T:
        """What `work` returns, which is cancelled if the run is over.

        Raises:
            ControlSignal: It is.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        asked = ended = False

        def cancel() -> None:
            nonlocal asked
            if not ended:
                asked = True
                task.cancel()

        def leave() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(cancel)

        with self.leaving(leave):
            try:
                return await work
            finally:
                ended = True
                if asked:
                    if hasattr(task, "uncancel"):
                        task.uncancel()
                    self.raise_if_over()


class _Left(BaseException):
    """A call was left behind."""


def _settle(settle: Callable[[Any], None], value: Any) -> None:
    with contextlib.suppress(InvalidStateError):  # it has ended, or was left
        settle(value)


def _take_over(context: contextvars.Context) -> None:
    """Set here what the code in `context` has set, as if it had run here."""
    here = contextvars.copy_context()
    for variable, value in context.items():
        if here.get(variable, _take_over) is not value:
            variable.set(value)


class _Watcher:
    """Looks how the runs stand whose calls are being made here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stays: set[Stay] = set()
        self._is_running = False

    @contextmanager
    def staying(self, execution: Execution) -> Iterator[Stay]:
        """The block is at work for `execution`."""
        stay = Stay(execution)
        with self._lock:
            self._stays.add(stay)
            starts, self._is_running = not self._is_running, True
        if starts:
            start_thread(self._watch, contextvars.Context(), "crewai-dbos-runs")
        try:
            yield stay
        finally:
            with self._lock:
                self._stays.discard(stay)

    def _watch(self) -> None:
        pause, failed = threading.Event(), False
        idle = 0
        while True:
            pause.wait(LOOKING)
            with self._lock:
                stays = list(self._stays)
                idle = 0 if stays else idle + 1
                if idle > 20:  # calls come one after the other: a thread for each would cost more
                    self._is_running = False
                    return
            stays = [stay for stay in stays if stay.execution.owner_xid is not None]
            if not stays or has_left_database():
                continue
            try:
                _look(stays)
                failed = False
            except Exception as error:
                if not failed:
                    told = type(error).__name__
                    logger.warning("Runs can't be looked up (%s); tried again.", told)
                failed = True


def _look(stays: list[Stay]) -> None:
    at, database = Moment.now(), launched_database()
    run_ids = {stay.execution.run_id for stay in stays}
    found = detached(lambda: _rows(database, run_ids))
    for stay in stays:
        row = found.get(stay.execution.run_id)
        if row is not None and row.status == DELAYED:
            continue  # whoever leaves a run that waits for a person to its row ends it, too
        error = stay.execution.lost_to(row)
        if error is not None:
            stay.end(error)
        else:
            stay.execution.goes_on(at)


def _rows(database: Database, run_ids: Iterable[str]) -> dict[str, RunRow]:
    with database.engine.connect() as connection:
        return database.rows(connection, run_ids)


watcher = _Watcher()
