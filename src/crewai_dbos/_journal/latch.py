"""What has ended a run: remembered, and raised again by every later call."""

from __future__ import annotations

import asyncio
import threading
from typing import NoReturn

from crewai_dbos._signals import ControlSignal
from crewai_dbos.errors import LostContextError


class Latch:
    """The end of one execution of a workflow. Threads share it; the first error counts.

    Attributes:
        error: What ended the run; None as long as it goes on or if it returned.
        is_closed: Whether the workflow has returned.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._lock = threading.Lock()
        self.error: BaseException | None = None
        self.is_closed = False

    @property
    def is_over(self) -> bool:
        return self.error is not None or self.is_closed

    def note(self, error: BaseException) -> None:
        """Remember `error` as what ended the run, if it does."""
        # A cancelled asyncio task (a time limit, a lost race) ends a branch, not the run.
        if isinstance(error, asyncio.CancelledError):
            return
        with self._lock:
            if self.error is None:
                self.error = error.error if isinstance(error, ControlSignal) else error

    def fail(self, error: BaseException) -> NoReturn:
        """End the run with `error`, past everything that catches `Exception`."""
        self.note(error)
        assert self.error is not None
        raise ControlSignal(self.error) from error

    def raise_if_over(self) -> None:
        if self.error is not None:
            raise ControlSignal(self.error)
        if self.is_closed:
            raise ControlSignal(
                LostContextError(
                    f"Run {self._run_id} is over, but a thread of it still makes calls. They are "
                    "not made. Wait for your threads before the run ends."
                )
            )
