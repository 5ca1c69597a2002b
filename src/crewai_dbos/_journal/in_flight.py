"""A call in flight, which is left when its run is over: nobody waits for it any more."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from crewai_dbos._journal.execution import Execution
from crewai_dbos._reused_threads import run_on_thread
from crewai_dbos._threads import ThreadOrTask, act_for

T = TypeVar("T")


class InFlight:
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
