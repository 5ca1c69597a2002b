"""Runs as people see them, out of the rows of the database: lists of them, and one."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from crewai_dbos._control import texts
from crewai_dbos._control.run import Fork, Page, Run, State
from crewai_dbos._control.states import STATUSES, Standing, standing
from crewai_dbos._control.taken_over import is_taken_over
from crewai_dbos._control.tree import nodes, seconds_in_calls
from crewai_dbos._control.workers import Fleet
from crewai_dbos._dbos_seam import stored_contents, stored_runs
from crewai_dbos._dbos_seam.database import (
    ALIVE,
    DELAYED,
    ENQUEUED,
    INTERNAL_QUEUE,
    PENDING,
    Database,
)
from crewai_dbos._dbos_seam.forks import forks_of
from crewai_dbos._dbos_seam.rows import as_json
from crewai_dbos._dbos_seam.stored_contents import StoredStep
from crewai_dbos._dbos_seam.stored_runs import Condition, StoredRun
from crewai_dbos._events.reading import at_work
from crewai_dbos._events.store import Store as EventStore
from crewai_dbos._fleet import listing
from crewai_dbos._journal.payload import is_payload
from crewai_dbos._requests import reading as requests
from crewai_dbos._requests.request import at
from crewai_dbos._stored import names, work_order
from crewai_dbos._stored.forms import is_storable
from crewai_dbos._stored.handed_on import handed_on_in
from crewai_dbos._stored.prices import Prices
from crewai_dbos._stored.sealing import Open
from crewai_dbos._stored.usage import Spent, Tokens, spent_in
from crewai_dbos.errors import DefinitionError, RunNotFoundError

_KINDS = {
    names.AGENT_WORKFLOW: "agent",
    names.AGENT_WORKFLOW_ASYNC: "agent",
    names.CREW_WORKFLOW: "crew",
    names.CREW_WORKFLOW_ASYNC: "crew",
    names.FLOW_WORKFLOW: "flow",
    names.FLOW_WORKFLOW_ASYNC: "flow",
    names.BATCH_WORKFLOW: "batch",
}
KINDS = (*dict.fromkeys(_KINDS.values()), "workflow")

_AT_ONCE = 200
"""Rows that are looked at in one go, where more is asked of them than SQL says."""


@dataclass(frozen=True)
class Wanted:
    """Which runs.

    Attributes:
        definition: Of this one only.
        state: In this one only.
        kind: Of this one only.
        since: Created then or later.
        version: Of this application version only.
    """

    definition: str | None = None
    state: State | None = None
    kind: str | None = None
    since: datetime | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        for what, given, known in (("state", self.state, STATUSES), ("kind", self.kind, KINDS)):
            if given is not None and given not in known:
                raise DefinitionError(f"There is no {what} {given!r}; there are {', '.join(known)}")
        if not is_storable(self.definition or ""):
            raise DefinitionError(f"{self.definition!r} is the name of no definition")
        if not is_storable(self.version or ""):
            raise DefinitionError(f"{self.version!r} is no application version")


@dataclass(frozen=True)
class _Around:
    """What beside a run says how it stands: the newest version by application, and the workers."""

    newest: Mapping[str | None, str]
    fleet: Fleet


@dataclass(frozen=True)
class Reader:
    """Reads runs.

    Attributes:
        database: Where they are.
        events: The events there.
        prices: What is known of prices.
        opened: Reads what is sealed.
    """

    database: Database
    events: EventStore
    prices: Prices
    opened: Open

    # Lists ---------------------------------------------------------------------------

    def page(self, wanted: Wanted, limit: int, cursor: str | None) -> Page:
        """The newest runs that fit, or those after `cursor`."""
        if limit < 1:
            raise DefinitionError(f"limit is a whole number from 1, not {limit!r}")
        with self.database.engine.connect() as connection:
            found: list[tuple[StoredRun, Standing]] = []
            for each in self._found(connection, wanted, limit, cursor):
                found.append(each)
                if len(found) > limit:
                    break
            last = found[limit - 1][0] if len(found) > limit else None
            runs = self._shown(connection, found[:limit])
        return Page(runs, None if last is None else f"{last.created_ms}.{last.run_id}")

    def _found(
        self, connection: sa.Connection, wanted: Wanted, limit: int, cursor: str | None
    ) -> Iterator[tuple[StoredRun, Standing]]:
        around = self._around(connection)
        conditions = [*self._conditions(wanted)]
        exact = wanted.definition is None and wanted.state in (None, "done", "failed")
        count = limit + 1 if exact else max(limit + 1, _AT_ONCE)
        before = None if cursor is None else _after(cursor)
        while True:
            here = stored_runs.is_created(self.database, before=before)
            rows = stored_runs.runs(self.database, connection, [*conditions, here], count)
            if wanted.definition is not None:
                labels = self._labels(connection, rows)
                fit = [r for r in rows if labels[r.run_id].get("definition") == wanted.definition]
            else:
                fit = rows
            standings = self._standings(connection, fit, around)
            for row in fit:
                if wanted.state in (None, standings[row.run_id].state):
                    yield row, standings[row.run_id]
            if len(rows) < count:
                return
            before = rows[-1].created_ms, rows[-1].run_id

    def _conditions(self, wanted: Wanted) -> Iterator[Condition]:
        """What SQL can say; the rest is looked at row by row."""
        database, table = self.database, self.database.runs.c
        if wanted.definition is not None:
            key, field = names.RUN_ATTRIBUTE, "definition"
            named = stored_runs.has_attribute(database, key, field, wanted.definition)
            # Those that an earlier release or another program has begun have it in their order.
            unnamed = (
                stored_runs.is_called(database, _KINDS)
                & stored_runs.lacks_attribute(database, key, field)
                & stored_runs.has_in_input(
                    database, json.dumps(wanted.definition, ensure_ascii=False)
                )
            )
            yield named | unnamed
        if wanted.state is not None:
            yield stored_runs.has_status(database, STATUSES[wanted.state])
        if wanted.state == "waiting":
            yield requests.has_open(self.database, table.workflow_uuid)
        if wanted.kind == "workflow":
            yield stored_runs.is_called(database, _KINDS, not_so=True)
        elif wanted.kind is not None:
            those = [name for name, kind in _KINDS.items() if kind == wanted.kind]
            yield stored_runs.is_called(database, those)
        if wanted.since is not None:
            since = int(wanted.since.timestamp() * 1000)
            yield stored_runs.is_created(database, since_ms=since)
        if wanted.version is not None:
            yield stored_runs.is_of_version(database, wanted.version)

    # One -----------------------------------------------------------------------------

    def run(self, run_id: str) -> Run:
        """A run with what is in it."""
        with self.database.engine.connect() as connection:
            row = self._one(connection, run_id)
            around = self._around(connection)
            (run,) = self._with_standings(connection, [row], around)
            steps = stored_contents.steps(self.database, connection, row.run_id)
            asked = requests.outlines(self.database, connection, [row.run_id]).get(row.run_id, [])
            below = stored_runs.runs(
                self.database, connection, [stored_runs.is_child_of(self.database, [row.run_id])]
            )
            children = self._with_standings(connection, below[::-1], around)
            forks = sorted(forks_of(self.database, connection, [row.run_id]), key=_forked)
            stand = self._standings(connection, forks, around)
        begun = at_work(self.events, self.opened, row.run_id) if row.status == PENDING else []
        made = nodes(row, run.state, steps, asked, begun, children, self.opened)
        costs = [run.cost, *(child.cost for child in children)]
        return replace(
            run,
            children=made,
            forks=tuple(Fork(fork.run_id, stand[fork.run_id].state) for fork in forks),
            queued=_queued(row, steps),
            in_calls=seconds_in_calls(made),
            tokens=sum((n.tokens for n in made), Tokens()),
            cost=None if None in costs else sum(cost for cost in costs if cost is not None),
        )

    def row(self, run_id: str) -> StoredRun:
        """A run as it is stored, by its whole id.

        Raises:
            RunNotFoundError: There is none.
        """
        with self.database.engine.connect() as connection:
            here = [stored_runs.has_id(self.database, [run_id])] if is_storable(run_id) else []
            found = stored_runs.runs(self.database, connection, here) if here else []
        if not found:
            raise RunNotFoundError(run_id)
        return found[0]

    def id_of(self, begins: str) -> str:
        """The id of the run whose id is this, or begins so."""
        with self.database.engine.connect() as connection:
            return self._one(connection, begins).run_id

    def _one(self, connection: sa.Connection, run_id: str) -> StoredRun:
        database = self.database
        if not is_storable(run_id):
            raise RunNotFoundError(run_id)
        found = stored_runs.runs(database, connection, [stored_runs.has_id(database, [run_id])])
        if not found and run_id:
            begins = stored_runs.begins_with(database, run_id)
            found = stored_runs.runs(database, connection, [begins], limit=2)
        if len(found) != 1:
            raise RunNotFoundError(run_id, ambiguous=bool(found))
        return found[0]

    # Rows, as people see them --------------------------------------------------------

    def _with_standings(
        self,
        connection: sa.Connection,
        rows: Sequence[StoredRun],
        around: _Around,
    ) -> tuple[Run, ...]:
        found = self._standings(connection, rows, around)
        return self._shown(connection, [(row, found[row.run_id]) for row in rows])

    def _standings(
        self,
        connection: sa.Connection,
        rows: Sequence[StoredRun],
        around: _Around,
    ) -> dict[str, Standing]:
        alive = [row.run_id for row in rows if row.status in ALIVE]
        asked = requests.outlines(self.database, connection, alive)
        return {
            row.run_id: standing(
                row, asked.get(row.run_id, ()), around.newest, self.opened, around.fleet
            )
            for row in rows
        }

    def _around(self, connection: sa.Connection) -> _Around:
        newest = stored_runs.newest_versions(self.database, connection)
        return _Around(newest, Fleet(listing.listed(self.database, connection)))

    def _shown(
        self, connection: sa.Connection, found: Sequence[tuple[StoredRun, Standing]]
    ) -> tuple[Run, ...]:
        rows = [row for row, _ in found]
        labels = self._labels(connection, rows)
        spent, taken_over = self._spent(connection, rows)
        failed = [row.run_id for row, how in found if how.state == "failed"]
        errors = stored_contents.errors(self.database, connection, failed)
        return tuple(
            Run(
                run_id=row.run_id,
                definition=labels[row.run_id].get("definition"),
                kind=labels[row.run_id].get("kind", "workflow"),
                state=how.state,
                created=at(row.created_ms),
                started=at(_started_ms(row)),
                seconds=((row.ended_ms or row.now_ms) - row.created_ms) / 1000,
                tokens=sum((each.tokens for each in spent[row.run_id]), Tokens()),
                cost=self.prices.usd(spent[row.run_id]),
                error=(
                    texts.of_run(errors[row.run_id], self.opened) if row.run_id in errors else None
                ),
                reason=how.reason,
                parent=row.parent,
                forked_from=row.forked_from,
                version=row.version,
                executor=row.executor,
                taken_over=sum((each.tokens for each in taken_over[row.run_id]), Tokens()),
                taken_over_cost=self.prices.usd(taken_over[row.run_id]),
                queue=None if row.queue == INTERNAL_QUEUE else row.queue,
                **_taken(row),
            )
            for row, how in found
        )

    def _labels(
        self, connection: sa.Connection, rows: Iterable[StoredRun]
    ) -> dict[str, dict[str, str]]:
        """What each is a run of, by ``definition`` and ``kind``."""
        found: dict[str, dict[str, str]] = {}
        for row in rows:
            kind, told = _KINDS.get(row.name), row.attributes.get(names.RUN_ATTRIBUTE)
            found[row.run_id] = {} if kind is None else {"kind": kind}
            if kind is not None and isinstance(told, Mapping):
                found[row.run_id]["definition"] = str(told.get("definition"))
        unnamed = [id for id, each in found.items() if each and "definition" not in each]
        for run_id, text in stored_contents.inputs(self.database, connection, unnamed).items():
            found[run_id].update(work_order.label(stored_contents.first_argument(text)) or {})
        return found

    def _spent(
        self, connection: sa.Connection, rows: Iterable[StoredRun]
    ) -> tuple[dict[str, list[Spent]], dict[str, list[Spent]]]:
        """What the LLM requests in the journal of each have used; what of it is taken over."""
        found: defaultdict[str, list[Spent]] = defaultdict(list)
        taken_over: defaultdict[str, list[Spent]] = defaultdict(list)
        by_id = {row.run_id: row for row in rows}
        for run_id, text, ended in stored_contents.with_usage(self.database, connection, by_id):
            if is_payload(entry := as_json(text)):
                found[run_id] += spent_in(entry)
                if is_taken_over(by_id[run_id], ended):
                    taken_over[run_id] += spent_in(entry)
        return found, taken_over


def _taken(row: StoredRun) -> dict[str, Any]:
    """The fields of a run that say whether it was taken over from a worker."""
    found = handed_on_in(row.attributes, row.created_ms)
    return {} if found is None else {"taken_from": found.worker, "taken_at": at(found.at)}


def _forked(fork: StoredRun) -> tuple[int, int]:
    """When it was made. DBOS's clock on SQLite may count whole seconds: a fork says it itself."""
    said = fork.attributes.get(names.FORK_ATTRIBUTE)
    ms = said.get("ms") if isinstance(said, Mapping) else None
    return fork.created_ms, ms if isinstance(ms, int) else 0


def _after(cursor: str) -> tuple[int, str]:
    created, dot, run_id = cursor.partition(".")
    if not (dot and created.isdecimal() and len(created) < 16 and is_storable(run_id)):
        raise DefinitionError(f"{cursor!r} is no cursor of a page of runs")
    return int(created), run_id


def _started_ms(row: StoredRun) -> int | None:
    if row.started_ms is not None or row.queue is not None or row.status in (ENQUEUED, DELAYED):
        return row.started_ms
    return row.created_ms  # begun where it was asked for


def _queued(row: StoredRun, steps: Iterable[StoredStep]) -> float | None:
    """How many seconds it was on a queue before it was begun."""
    if row.queue is None:
        return None
    own = (step.started_ms for step in steps if not is_taken_over(row, step.ended_ms))
    # Begun again it has the time of that.
    begun = [ms for ms in (row.started_ms, *own) if ms is not None]
    end_ms = row.ended_ms or row.now_ms
    return max(0, min(begun, default=end_ms) - row.created_ms) / 1000
