"""The forks of a run, and which of them goes on for it."""

from __future__ import annotations

import sqlalchemy as sa

from crewai_dbos._dbos_seam.database import ALIVE, Database
from crewai_dbos._dbos_seam.stored_runs import ERROR, SUCCESS, StoredRun, is_fork_of, runs


def forks_of(database: Database, connection: sa.Connection, run_ids: list[str]) -> list[StoredRun]:
    """The forks of these runs, the oldest first."""
    return runs(database, connection, [is_fork_of(database, run_ids)])[::-1]


def going_on_for(database: Database, connection: sa.Connection, run_id: str) -> list[StoredRun]:
    """The forks that make what was left of a run, or have made it; the oldest first.

    One that was cancelled or stopped itself does not: a fork of that may.
    """
    found: list[StoredRun] = []
    seen, stopped = {run_id}, [run_id]
    while stopped:
        forks = [f for f in forks_of(database, connection, stopped) if f.run_id not in seen]
        seen.update(fork.run_id for fork in forks)
        found += [fork for fork in forks if fork.status in (*ALIVE, SUCCESS, ERROR)]
        stopped = [fork.run_id for fork in forks if fork not in found]
    return found
