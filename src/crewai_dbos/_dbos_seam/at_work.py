"""The workflows that this process carries out, which DBOS waits for when it is destroyed.

DBOS knows of those that it was asked to start, or has taken from a queue. It does not count one
that is called, and would let its process end in the middle of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from crewai_dbos._dbos_seam.instance import is_launched, launched_instance
from crewai_dbos._setting import setting


def run_ids() -> list[str]:
    """The ids of the workflows that this process carries out now."""
    if not is_launched():
        return []
    return [str(run_id) for run_id in launched_instance()._active_workflows_set.activeList()]


def is_full() -> bool:
    """Whether runs that were started or claimed wait for a thread, of which DBOS may have few."""
    return is_launched() and launched_instance()._executor._work_queue.qsize() > 0


class _Call:
    """What a call of a workflow carries out, as long as it does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[Any] | None = []

    def add(self, run_id: str) -> None:
        with self._lock:
            if self._entries is not None:
                self._entries.append(launched_instance()._active_workflows_set.add(run_id))

    def end(self) -> None:
        with self._lock:
            entries, self._entries = self._entries, None
        for entry in entries or ():
            entry.release()


_call: ContextVar[_Call | None] = ContextVar("crewai_dbos_call_of_a_workflow", default=None)


@contextmanager
def calling() -> Iterator[None]:
    """The block calls a workflow, and ends when that has recorded what it returns."""
    call = _Call()
    try:
        with setting(_call, call):
            yield
    finally:
        call.end()


def begin(run_id: str) -> None:
    """The run begins here; if it was called, DBOS counts it until the call ends."""
    if (call := _call.get()) is not None:
        call.add(run_id)
