"""Deleting runs that have ended long ago, with all that is stored of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from crewai_dbos._control.states import standing
from crewai_dbos._dbos_seam import deleting, stored_runs
from crewai_dbos._dbos_seam.database import Database, chunks
from crewai_dbos._dbos_seam.stored_runs import ENDED, SUCCESS, StoredRun
from crewai_dbos._events.store import Store as EventStore
from crewai_dbos._requests.store import Store
from crewai_dbos._stored import names
from crewai_dbos._stored.sealing import Open
from crewai_dbos.errors import DefinitionError

_AT_ONCE = 100
"""Runs that are looked at, or deleted in one transaction."""


_WORK = ("agent:", "crew:", "flow:")
"""What the names begin with of steps of work that has joined a workflow."""


class _GoesOn(Exception):
    """A run that was to be deleted has been resumed meanwhile."""


@dataclass(frozen=True)
class Pruning:
    """Deletes runs of one database.

    Attributes:
        database: Where they are.
        store: The requests there.
        events: The events there.
        opened: Reads what is sealed.
    """

    database: Database
    store: Store
    events: EventStore
    opened: Open

    def prune(self, older_than: timedelta, *, dry_run: bool) -> list[str]:
        """Delete what has ended before. Returns the ids of what is deleted, or would be."""
        if older_than < timedelta(0):
            raise DefinitionError(f"older_than is no time that has passed: {older_than}")
        gone: list[str] = []
        after: StoredRun | None = None
        with self.database.engine.connect() as connection:
            before = self.database.now_of(connection) - int(older_than.total_seconds() * 1000)
            talks = self._talks(connection, before)
        while True:
            with self.database.engine.connect() as connection:
                roots = self._roots(connection, before, after)
                held = self._held(connection)
                trees = [self._tree(connection, root) for root in roots]
                old = [t for t in trees if self._goes(connection, t, before, held, talks)]
            for tree in old:
                gone += [run.run_id for run in tree] if dry_run else self._delete(tree)
            if len(roots) < _AT_ONCE:
                return gone
            after = roots[-1]

    def _roots(
        self, connection: sa.Connection, before: int, after: StoredRun | None
    ) -> list[StoredRun]:
        """Runs that nobody else has started that is still there, the newest first."""
        database = self.database
        wanted = [deleting.ended_before(database, before), deleting.has_no_parent(database)]
        if after is not None:
            place = after.created_ms, after.run_id
            wanted.append(stored_runs.is_created(database, before=place))
        return stored_runs.runs(database, connection, wanted, _AT_ONCE)

    def _tree(self, connection: sa.Connection, root: StoredRun) -> list[StoredRun]:
        """A run, what it has started, what that has, and so on."""
        found, seen, last = [root], {root.run_id}, [root]
        while last:
            below: list[StoredRun] = []
            for some in chunks(run.run_id for run in last):
                those = [stored_runs.is_child_of(self.database, some)]
                below += stored_runs.runs(self.database, connection, those)
            last = [run for run in below if run.run_id not in seen]
            seen |= {run.run_id for run in last}
            found += last
        return found

    def _held(self, connection: sa.Connection) -> set[str]:
        """What open forks have taken over from the runs that they are forks of."""
        return deleting.children_of_open_forks(self.database, connection)

    def _talks(self, connection: sa.Connection, before: int) -> dict[str, bool]:
        """The conversations of which a turn stays that has not ended before.

        Returns:
            Of each, by what the ids of its turns begin with, whether one that stays has succeeded.
        """
        found: dict[str, bool] = {}
        flows = names.WORKFLOWS_OF["flow"]
        for run_id, status in deleting.not_ended_before(self.database, connection, before, flows):
            if (talk := names.session_of(run_id)) is not None:
                found[talk] = found.get(talk, False) or status == SUCCESS
        return found

    def _goes(
        self,
        connection: sa.Connection,
        tree: Sequence[StoredRun],
        before: int,
        held: set[str],
        talks: dict[str, bool],
    ) -> bool:
        """Whether `tree` is deleted. Asked of the newest first; `talks` is told of what stays."""
        turn, goes = tree[0], self._may_go(connection, tree, before, held)
        talk = names.session_of(turn.run_id)
        if talk is None or turn.name not in names.WORKFLOWS_OF["flow"]:
            return goes
        # The next turn begins with what the last that has succeeded ended with.
        if goes and (turn.status != SUCCESS or talks.get(talk, True)):
            return True
        talks[talk] = talks.get(talk, False) or turn.status == SUCCESS
        return False

    def _may_go(
        self, connection: sa.Connection, tree: Sequence[StoredRun], before: int, held: set[str]
    ) -> bool:
        """Whether all of `tree` has ended before, and nobody waits for anything of it."""
        for run in tree:
            if run.status not in ENDED or run.ended_ms is None or run.ended_ms >= before:
                return False
            if run.run_id in held or standing(run, (), {}, self.opened).state == "stopped":
                return False
        if any(run.name in (*names.WORKFLOWS, names.BATCH_WORKFLOW) for run in tree):
            return True
        ids = [run.run_id for run in tree]
        return deleting.has_steps_in(self.database, connection, ids, _WORK)

    def _delete(self, tree: Sequence[StoredRun]) -> list[str]:
        """Delete `tree`, what was started first of all. Returns what is gone."""
        gone: list[str] = []
        for some in _some([run.run_id for run in reversed(tree)]):
            try:
                with self.database.writing() as connection:
                    # Requests before the rows of runs, as everywhere.
                    self.store.delete(connection, some)
                    self.events.delete(connection, some)
                    if not deleting.delete_ended(self.database, connection, some):
                        raise _GoesOn
            except _GoesOn:
                break
            gone += some
        return gone


def _some(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _AT_ONCE):
        yield list(ids[start : start + _AT_ONCE])
