"""A place in a run: plain data, under which a record keeps the calls that are made there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from crewai_dbos._threads import ThreadOrTask


@dataclass
class Place:
    """One place in a run.

    Attributes:
        path: Where, "" for the run itself.
        sequential: Whether calls here follow one another. If not, each is named by its content.
        runs_on: The only thread or asyncio task that makes one call after the other here, if there
            is one. Calls from others are named by their content; their DBOS operations, which have
            none, are refused.
    """

    path: str
    sequential: bool = True
    runs_on: ThreadOrTask | None = None
    _task: asyncio.Task[Any] | None = field(default=None, repr=False, compare=False)

    def is_in_sequence_here(self) -> bool:
        """Whether a call made here comes before or after every other of this place."""
        return self.runs_on is None or self.runs_on == ThreadOrTask.here()

    def is_alone_here(self) -> bool:
        """Whether DBOS operations made here come one after the other."""
        own, here = self.runs_on, ThreadOrTask.here()
        if own is None or own == here:
            return True
        if own.task is not None or own.thread != here.thread or here.task is None:
            return False
        # An event loop that sync code runs: the task in it that comes first, and no other.
        if self._task is None or self._task.get_loop() is not here.task.get_loop():
            self._task = here.task
        return self._task is here.task
