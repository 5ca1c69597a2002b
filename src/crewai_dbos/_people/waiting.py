"""Those who wait for people in this process: one thread looks for the answers of all."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import TypeVar

from dbos import DBOS
from sqlalchemy.exc import SQLAlchemyError

from crewai_dbos._dbos_seam.configuration import application_name
from crewai_dbos._dbos_seam.context import detached
from crewai_dbos._dbos_seam.database import Database, launched_database
from crewai_dbos._dbos_seam.instance import is_shut_down
from crewai_dbos._dbos_seam.parking import listens_to
from crewai_dbos._journal.journal import Journal
from crewai_dbos._requests.store import Outcome, Store
from crewai_dbos._signals import RunParked, RunSuspended
from crewai_dbos._stored import names

logger = logging.getLogger("crewai_dbos")

T = TypeVar("T")

POLLING = 0.2
"""Seconds between two looks for answers, and between two into the queue of woken runs."""

AT_ONCE = 16
"""Runs that were woken and are carried out in one process at the same time."""

_MAY_PARK = "people.may_park"


@dataclass(eq=False)
class Wait:
    """A branch of a run that waits for a person.

    Attributes:
        journal: Of the run.
        request_id: What it waits for.
        linger: Seconds for which the run is kept in memory.
        outcome: What came of it; None if the run is over.
    """

    journal: Journal
    request_id: str
    linger: float
    outcome: Future[Outcome | None] = field(default_factory=Future)

    def settle(self, outcome: Outcome | None) -> None:
        """This came of it, unless something else has come of it before."""
        with contextlib.suppress(InvalidStateError):
            self.outcome.set_result(outcome)


def may_park(journal: Journal) -> None:
    """The workflow was opened for a run of ours: nobody holds anything of it but its row."""
    journal.kept[_MAY_PARK] = True


class _Watcher:
    """Looks for the answers that this process waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Of one request there may be two: one of an execution that has lost its run.
        self._waits: set[Wait] = set()
        self._is_running = False

    def add(self, wait: Wait) -> None:
        with self._lock:
            self._waits.add(wait)
            if self._is_running:
                return
            self._is_running = True
        threading.Thread(target=self._watch, name="crewai-dbos-people", daemon=True).start()

    def remove(self, wait: Wait) -> None:
        with self._lock:
            self._waits.discard(wait)

    def _park(self, here: Launched, journal: Journal) -> None:
        """Leave the run to its row, if it has done nothing but wait for long enough."""
        with journal.activity.held() as idle:
            with self._lock:
                waits = [wait for wait in self._waits if wait.journal is journal]
            if idle is None or not waits or idle < max(wait.linger for wait in waits):
                return
            if any(wait.outcome.done() for wait in waits) or not here.listens:
                return
            run_id, xid = journal.run_id, journal.root.owner_xid
            ids = {wait.request_id for wait in waits}
            if xid is not None and here.store.park(run_id, xid, ids, here.queue):
                journal.latch.note(RunParked(run_id))

    def _watch(self) -> None:
        failed = False
        while True:
            time.sleep(POLLING)
            with self._lock:
                waits = set(self._waits)
                if not waits:
                    self._is_running = False
                    return
            try:
                self._look(waits)
                failed = False
            except Exception as error:
                if isinstance(error, SQLAlchemyError):
                    told = f"{type(error).__name__}"
                else:
                    told = repr(error)
                if not failed:
                    logger.warning("Answers can't be looked for (%s); tried again.", told)
                failed = True

    def _look(self, waits: set[Wait]) -> None:
        journals = {wait.journal for wait in waits}
        if is_shut_down():
            for journal in journals:
                journal.latch.note(RunSuspended("DBOS is shut down"))
        else:
            here = launched()
            with here.database.engine.connect() as connection:
                rows = here.database.rows(connection, {journal.run_id for journal in journals})
            for journal in journals:
                error = journal.execution.lost_to(rows.get(journal.run_id))
                if error is not None:
                    journal.latch.note(error)
            # What has come of a request is told to the execution that has its run.
            ours = {wait for wait in waits if not wait.journal.latch.is_over}
            ended = here.store.ended({wait.request_id for wait in ours})
            for wait in ours:
                if wait.request_id in ended:
                    wait.settle(ended[wait.request_id])
            for journal in {wait.journal for wait in ours}:
                if journal.kept.get(_MAY_PARK):
                    self._park(here, journal)
        for wait in waits:
            if wait.journal.latch.is_over:
                wait.settle(None)


@dataclass(frozen=True)
class Launched:
    """What the launched DBOS instance has for runs that ask people.

    Attributes:
        database: Its database.
        store: The requests in it.
        queue: What the runs are taken from that are woken.
        listens: Whether this process takes runs from there.
    """

    database: Database
    store: Store
    queue: str
    listens: bool

    def patiently(self, function: Callable[[Store], T]) -> T:
        """What `function` makes of the requests; it waits for a database that is away."""
        return self.database.patiently(lambda: function(self.store))


def launched() -> Launched:
    """That of the instance that is launched now; made once for each."""
    global _launched
    database = launched_database()
    found = _launched
    if found is None or found.database != database:
        queue = names.resume_queue(application_name())
        detached(
            DBOS.register_queue,
            queue,
            worker_concurrency=AT_ONCE,
            polling_interval_sec=POLLING,
            on_conflict="never_update",
        )
        found = _launched = Launched(database, Store(database), queue, listens_to(queue))
        if not found.listens:
            logger.warning(
                "DBOS.listen_queues([...]) was called without %r: runs that wait for a person stay "
                "in memory.",
                queue,
            )
    return found


_launched: Launched | None = None


watcher = _Watcher()
