"""Runs that go on under another application version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from crewai_dbos import _command_lines
from crewai_dbos._control.forked import check_not_forked
from crewai_dbos._control.stopping import has_stopped, let_go_on, queue_of_items
from crewai_dbos._dbos_seam import moving, stopping
from crewai_dbos._dbos_seam.database import CANCELLED, PENDING, Database
from crewai_dbos._dbos_seam.stopping import RunToChange
from crewai_dbos._fleet.listing import worker_of
from crewai_dbos._requests.store import Store
from crewai_dbos._stored import names
from crewai_dbos._stored.cancelled import said_in, without_notes
from crewai_dbos._stored.moved import Moved, with_moved
from crewai_dbos._stored.sealing import Open
from crewai_dbos.errors import DefinitionError, RunForkedError, RunNotFoundError, RunStateError


@dataclass(frozen=True)
class Moves:
    """What became of runs that were to be moved to another application version.

    Attributes:
        moved: The ids of those that are of the other version now.
        kept: Those that need not be moved, and why, by id.
        refused: Those that can't be moved as they stand, and what to do, by id.

    Example::

        moves = control.move_all("1")
        print(len(moves.moved), moves.kept, moves.refused)
    """

    moved: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """Where runs are to be moved.

    Attributes:
        version: To this application version; None for the newest of their application.
        even_if_running: Also what a process is at, or may be.
        by: Who does it.
        even_if_forked: Also what has stopped, and a fork goes on for.
    """

    version: str | None
    even_if_running: bool
    by: str
    even_if_forked: bool = False


@dataclass(frozen=True)
class Mover:
    """Moves runs.

    Attributes:
        database: Where they are.
        store: The requests there.
        opened: Reads what is sealed.
        wanted: Where they are to be moved.
    """

    database: Database
    store: Store
    opened: Open
    wanted: Wanted

    def move(self, run_id: str) -> Moves:
        """Move a run, with the runs that it has started and that have not ended.

        Raises:
            RunNotFoundError: There is no such run.
            RunStateError: It can't be moved as it stands.
            DefinitionError: There is no such version.
        """
        found = self._tree(run_id)
        if found.refused and not (found.moved or found.kept):
            told = found.refused.get(run_id) or next(iter(found.refused.values()))
            raise RunStateError(run_id, self.database.status_of(run_id) or "", told)
        return found

    def move_all(self, version: str) -> Moves:
        """Move all runs of a version that have not ended.

        Raises:
            DefinitionError: There is no version to move them to.
        """
        database, ours = self.database, (*names.WORKFLOWS, names.BATCH_WORKFLOW)
        with database.engine.connect() as connection:
            runs = moving.alive_of(database, connection, version)
            self._target(connection, None)
        moved: list[str] = []
        done: set[str] = set()
        kept: dict[str, str] = {}
        refused: dict[str, str] = {}
        for run_id, name in runs:
            if name not in ours:
                refused[run_id] = (
                    f"Run {run_id!r} is a workflow of your own ({name}). DBOS finds its steps by "
                    "their numbers, and ends it with an error if they are others now. If they "
                    f"are not: {_command_lines.move(run_id)}"
                )
            elif run_id not in done:
                try:
                    found = self._tree(run_id)
                except RunNotFoundError:
                    continue  # deleted meanwhile
                except DefinitionError as error:  # of another application
                    refused[run_id] = f"Run {run_id!r}: {error}"
                    continue
                moved += found.moved
                kept.update({each: why for each, why in found.kept.items() if each not in done})
                refused.update(found.refused)
                done.update(found.moved, found.kept, found.refused)
        return Moves(tuple(moved), kept, refused)

    def _tree(self, run_id: str) -> Moves:
        database = self.database
        with database.writing() as connection:
            # Requests are locked before runs, here as everywhere.
            ids = [each.run_id for each in self._found(connection, run_id, lock=False)]
            self.store.lock(connection, ids)
            found = self._found(connection, run_id, lock=True)
            root = found[0]
            target = self._target(connection, root.application)
            of_items = queue_of_items(database, connection, root)
            now = database.now_of(connection)
            moved: list[str] = []
            kept: dict[str, str] = {}
            refused: dict[str, str] = {}
            for each in found:
                if each is root and _is_put_on_its_queue(root) and len(found) > 1:
                    continue
                if each.version == target and not _ended(each):
                    kept[each.run_id] = _there(each, target)
                elif each.version is None and not _ended(each):
                    kept[each.run_id] = (
                        f"Run {each.run_id!r} is of no version: a process of the newest one takes "
                        "it, when it does not wait any more."
                    )
                elif (why := self._refusal(connection, each, target)) is not None:
                    refused[each.run_id] = why
                    if each is root:
                        break  # what it has started stays with it, or is moved for itself
                else:
                    self._move(connection, each, root, target, now, of_items)
                    moved.append(each.run_id)
        return Moves(tuple(moved), kept, refused)

    def _move(
        self,
        connection: sa.Connection,
        run: RunToChange,
        root: RunToChange,
        target: str,
        now: int,
        of_items: str | None,
    ) -> None:
        moved = Moved(str(run.version), target, self.wanted.by, now)
        attributes = with_moved(run.attributes, moved)
        if has_stopped(run):
            # It is taken up again: that is what it is moved for.
            queue = None if run is root else of_items
            going = replace(run, attributes=attributes)
            let_go_on(self.database, connection, self.store, going, queue, None, self.opened)
            attributes = without_notes(attributes)
        elif run.status != CANCELLED:
            attributes = without_notes(attributes)
        moving.move(self.database, connection, run.run_id, target, attributes)

    def _refusal(self, connection: sa.Connection, run: RunToChange, target: str) -> str | None:
        """Why a run can't be moved; None if it can."""
        run_id = run.run_id
        if _ended(run):
            return (
                f"Run {run_id!r} has ended ({run.status}), so there is nothing to move. To make "
                f"it again from a place: {_command_lines.fork(run_id, 'PLACE', version=target)}"
            )
        if has_stopped(run) and not self.wanted.even_if_forked:
            # Moved, it is taken up again.
            try:
                check_not_forked(self.database, connection, run, "move")
            except RunForkedError as forked:
                return str(forked)
        if (
            run.status != PENDING
            or self.wanted.even_if_running
            or "waiting" in said_in(run.attributes)
        ):
            return None
        executor = str(run.executor)
        worker = worker_of(self.database, connection, executor, run.application, str(run.version))
        if worker is None:
            return (
                f"Run {run_id!r} is carried out by process {executor!r}, which is no Worker: the "
                "database does not say whether it lives. If it does not, or if what it is at may "
                "be made again: crewai-dbos runs move --even-if-running, even_if_running=True"
            )
        if worker.is_alive:
            return (
                f"Run {run_id!r} is carried out by worker {executor!r} ({worker.process}), which "
                "lives. Let it end there; or stop that worker, which leaves it, and move it then. "
                "To take it away now, so that the calls in flight are made again: crewai-dbos "
                "runs move --even-if-running, even_if_running=True"
            )
        return None

    def _found(self, connection: sa.Connection, run_id: str, *, lock: bool) -> list[RunToChange]:
        """The run, and after it those that it has started and that go with it."""
        database = self.database
        found = stopping.runs_to_change(database, connection, run_id, lock=lock)
        if not found:
            raise RunNotFoundError(run_id)
        seen = {run_id}
        for run in found:  # which grows
            with_stopped = run.name == names.BATCH_WORKFLOW
            for child in _children(database, connection, run, lock=lock):
                goes = child.is_alive or (with_stopped and not _ended(child))
                if goes and child.run_id not in seen:
                    seen.add(child.run_id)
                    found.append(child)
        return found

    def _target(self, connection: sa.Connection, application: str | None) -> str:
        """The version that a run of an application is moved to."""
        known, wanted = (
            moving.versions_of(self.database, connection, application),
            self.wanted.version,
        )
        if not known or (wanted is not None and wanted not in known):
            whose = "" if application is None else f" of application {application!r}"
            what = "" if wanted is None else f" as version {wanted!r}"
            raise DefinitionError(
                f"No process{whose} was ever launched{what}, so nobody would take the run. There "
                f"are: {_listed(known)}. Start a worker of the version first."
            )
        return known[0] if wanted is None else wanted


def _children(
    database: Database, connection: sa.Connection, run: RunToChange, *, lock: bool
) -> list[RunToChange]:
    found = stopping.runs_to_change(database, connection, run.run_id, with_children=True, lock=lock)
    return found[1:]


def _is_put_on_its_queue(run: RunToChange) -> bool:
    """Whether this is a batch, which does no more than that."""
    return run.name == names.BATCH_WORKFLOW and _ended(run)


def _ended(run: RunToChange) -> bool:
    """Whether the run has come to an end that nothing follows."""
    return not (run.is_alive or run.status == CANCELLED or has_stopped(run))


def _there(run: RunToChange, target: str) -> str:
    told = f"Run {run.run_id!r} is of version {target} already."
    if run.is_alive:
        return told
    return f"{told} To let it go on: {_command_lines.resume(run.run_id)}"


def _listed(versions: Iterable[str]) -> str:
    some = list(versions)
    return ", ".join(some[:5]) + (", ..." if len(some) > 5 else "") if some else "none"
