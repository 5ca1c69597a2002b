"""The workers of a database as people see them, and who of them can go on with a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from crewai_dbos._dbos_seam.database import Database
from crewai_dbos._dbos_seam.stored_runs import StoredRun
from crewai_dbos._fleet import listing
from crewai_dbos._fleet.listing import Listed
from crewai_dbos._requests.request import at
from crewai_dbos._stored import names


@dataclass(frozen=True)
class WorkerInfo:
    """A `Worker`, as its lease in the database says.

    Attributes:
        executor_id: What it is called in the rows of its runs.
        process: Its host and process id.
        application, version: Whose runs it takes.
        definitions: What it has: ``{"crew": ("research",)}``.
        started: When it began, in UTC.
        lease: Seconds without a beat after which others take it for dead.
        age: Seconds since its last beat, by the database's clock; None if it was stopped.
        alive: Whether it has beaten within its lease.
        runs: How many runs are under it: at work, or left by it if it is not alive.

    Example::

        for worker in control.workers():
            if not worker.alive and worker.runs:
                print(worker.process, "is gone and leaves", worker.runs, "runs")
    """

    executor_id: str
    process: str
    application: str
    version: str
    definitions: Mapping[str, tuple[str, ...]]
    started: datetime
    lease: float
    age: float | None
    alive: bool
    runs: int


def workers(database: Database, connection: sa.Connection) -> list[WorkerInfo]:
    """All that have a lease, or had one not long ago."""
    under = listing.runs_under(database, connection)
    return [
        WorkerInfo(
            executor_id=each.executor_id,
            process=each.process,
            application=each.application,
            version=each.version,
            definitions=each.definitions,
            started=at(each.started_ms),
            lease=each.lease_ms / 1000,
            age=None if each.age_ms is None else each.age_ms / 1000,
            alive=each.is_alive,
            runs=sum(
                count
                for executor, application, version, count in under
                if (executor, version) == (each.executor_id, each.version)
                and application in (None, each.application)
            ),
        )
        for each in listing.listed(database, connection)
    ]


@dataclass(frozen=True)
class Fleet:
    """Who is there to go on with a run.

    Attributes:
        workers: All, alive or not.
    """

    workers: Sequence[Listed] = ()

    def worker_of(self, run: StoredRun) -> Listed | None:
        """The worker that a run is under; None if no lease says anything of its process."""
        return next(
            (
                each
                for each in self.workers
                if (each.executor_id, each.version) == (run.executor, run.version)
                and run.application in (None, each.application)
            ),
            None,
        )

    def taking(self, run: StoredRun, version: str | None) -> list[Listed]:
        """The workers that live and take runs of this version from its queue."""
        return [each for each in self.alive(run, version) if each.listens_to(run.queue)]

    def alive(self, run: StoredRun, version: str | None) -> list[Listed]:
        """The workers that live and are of its application and this version."""
        return [
            each
            for each in self.workers
            if each.is_alive and each.version == version
            if run.application in (None, each.application)
        ]


def what_it_needs(run: StoredRun) -> tuple[str, str] | None:
    """What a run is of, as ``crew`` and the name; None if any worker can carry it out."""
    told = run.attributes.get(names.RUN_ATTRIBUTE)
    name = told.get("definition") if isinstance(told, Mapping) else None
    nouns = [noun for noun, workflows in names.WORKFLOWS_OF.items() if run.name in workflows]
    return (nouns[0], str(name)) if nouns and name is not None else None


def having(workers: Sequence[Listed], needed: tuple[str, str] | None) -> list[Listed]:
    """Those of `workers` that have it."""
    if needed is None:
        return list(workers)
    noun, name = needed
    return [each for each in workers if name in each.definitions.get(noun, ())]
