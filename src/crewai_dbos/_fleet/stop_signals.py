"""SIGTERM and Ctrl-C, as a worker takes them: Python delivers them to the main thread."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from crewai_dbos._crewai_seam.telemetry import ends_the_process
from crewai_dbos._threads import in_main_thread

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Terminated(SystemExit):
    """SIGTERM has come to a worker that is not in `run`. Its block ends, as it does at Ctrl-C."""


class StopSignals:
    """What the process does about them from the begin of a worker to its end.

    Args:
        is_here: Whether this is the worker's process, and not one that was forked from it.
        give_up: Called before the process ends at a second signal.

    Attributes:
        have_come: Whether the worker is to stop.
    """

    def __init__(self, is_here: Callable[[], bool], give_up: Callable[[], None]) -> None:
        self.have_come = False
        self._is_here = is_here
        self._give_up = give_up
        self._before: dict[int, Any] = {}
        self._are_over = False

    def end_the_block(self) -> None:
        """SIGTERM raises `Terminated` from now on. What the program itself does about it stays."""
        if in_main_thread() and ends_the_process(signal.getsignal(signal.SIGTERM)):
            self._take(signal.SIGTERM, self._terminate)

    @contextmanager
    def told(self) -> Iterator[bool]:
        """In the block `have_come` tells of both; not in a thread, where it yields False.

        Once they have come it does so until the worker has ended.
        """
        if not in_main_thread():
            yield False
            return
        around = {number: self._take(number, self._heed) for number in _SIGNALS}
        try:
            yield True
        finally:
            if not self.have_come:
                for number, before in around.items():
                    signal.signal(number, before)

    def give_back(self) -> None:
        """The worker has ended: the program does what it did before, if it does nothing else."""
        self._are_over = True
        if in_main_thread():
            for number, before in self._before.items():
                if signal.getsignal(number) in (self._terminate, self._heed):
                    signal.signal(number, before)

    def _take(self, number: int, handler: Callable[[int, FrameType | None], None]) -> Any:
        """Returns what was done about it until now."""
        # None: not by Python.
        before = signal.signal(number, handler) or signal.SIG_DFL
        self._before.setdefault(number, before)
        return before

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if self._passed_on(number):
            return
        self.have_come = True
        signal.signal(number, self._heed)
        raise Terminated(128 + number)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        """The first signal ends the worker; at the second the process ends here."""
        if self._passed_on(number):
            return
        if self.have_come:
            self._give_up()
            os._exit(128 + number)
        self.have_come = True

    def _passed_on(self, number: int) -> bool:
        """Whether the signal was sent again, to what the program itself does about it.

        It is if the process was forked from the worker's, or has none any more.
        """
        if self._is_here() and not self._are_over:
            return False
        signal.signal(number, self._before[number])
        os.kill(os.getpid(), number)
        return True
