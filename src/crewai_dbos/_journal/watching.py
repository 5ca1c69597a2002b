"""Calls are left when their run is cancelled, or another execution has it.

One thread looks every half second how the runs stand whose calls are being made in this process,
as long as there are any.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from crewai_dbos._dbos_seam.context import detached
from crewai_dbos._dbos_seam.database import DELAYED, launched_database
from crewai_dbos._dbos_seam.instance import has_left_database
from crewai_dbos._journal.execution import Execution, Moment, rows_of
from crewai_dbos._journal.in_flight import InFlight
from crewai_dbos._threads import start_thread

logger = logging.getLogger("crewai_dbos")

LOOKING = 0.5
"""Seconds between two looks at the runs."""


class _Watcher:
    """Looks how the runs stand whose calls are being made here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[InFlight] = set()
        self._is_running = False

    @contextmanager
    def in_flight(self, execution: Execution) -> Iterator[InFlight]:
        """The block is at work for `execution`."""
        call = InFlight(execution)
        with self._lock:
            self._calls.add(call)
            starts, self._is_running = not self._is_running, True
        if starts:
            start_thread(self._watch, contextvars.Context(), "crewai-dbos-runs")
        try:
            yield call
        finally:
            with self._lock:
                self._calls.discard(call)

    def _watch(self) -> None:
        pause, failed = threading.Event(), False
        idle = 0
        while True:
            pause.wait(LOOKING)
            with self._lock:
                calls = list(self._calls)
                idle = 0 if calls else idle + 1
                if idle > 20:  # calls come one after the other: a thread for each would cost more
                    self._is_running = False
                    return
            calls = [call for call in calls if call.execution.owner_xid is not None]
            if not calls or has_left_database():
                continue
            try:
                _look(calls)
                failed = False
            except Exception as error:
                if not failed:
                    told = type(error).__name__
                    logger.warning("Runs can't be looked up (%s); tried again.", told)
                failed = True


def _look(calls: list[InFlight]) -> None:
    at, database = Moment.now(), launched_database()
    run_ids = {call.execution.run_id for call in calls}
    found = detached(lambda: rows_of(database, run_ids))
    for call in calls:
        row = found.get(call.execution.run_id)
        if row is not None and row.status == DELAYED:
            continue  # whoever leaves a run that waits for a person to its row ends it, too
        error = call.execution.lost_to(row)
        if error is not None:
            call.end(error)
        else:
            call.execution.goes_on(at)


watcher = _Watcher()
