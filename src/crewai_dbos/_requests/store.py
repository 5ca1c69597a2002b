"""What becomes of a request, from the first time that it is asked until its answer is used.

The run that waits for it is parked, and woken, in the same transaction.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from crewai_dbos._dbos_seam.database import Database, chunks
from crewai_dbos._dbos_seam.parking import FOR_EVER, park, wake
from crewai_dbos._requests import answers, reading
from crewai_dbos._requests.answers import Answer
from crewai_dbos._requests.request import Request
from crewai_dbos._requests.table import requests
from crewai_dbos._stored import sealing
from crewai_dbos._stored.sealing import Open, Seal
from crewai_dbos._tables import migrate
from crewai_dbos.errors import AlreadyAnswered, RequestExpired, UnknownRequest


@dataclass(frozen=True)
class Asked:
    """A request that a run has asked.

    Attributes:
        request_id: Its id.
        notify: Whether nobody has been told of it.
        created_ms: When it was asked, in milliseconds since 1970.
        deadline_ms: Until when it can be answered.
    """

    request_id: str
    notify: bool
    created_ms: int
    deadline_ms: int | None


@dataclass(frozen=True)
class Outcome:
    """How a request ended.

    Attributes:
        answer: What was said, as it is stored; None if it was not answered.
        by: Who has said it.
        on_deadline: What was to become of it at its deadline, when it was asked.
        is_withdrawn: Whether nobody waited for it any more, as somebody said.
    """

    answer: Any = None
    by: str | None = None
    on_deadline: str | None = None
    is_withdrawn: bool = False


class Store:
    """The requests in one database.

    Args:
        database: Where; the table is made there if there is none.
    """

    def __init__(self, database: Database) -> None:
        migrate(database)
        self._database = database
        self._table = requests(database.schema)

    # The run's side ------------------------------------------------------------

    def ask(
        self,
        run_id: str,
        name: str,
        kind: str,
        question: Any,
        *,
        digest: str = "",
        seconds: float | None = None,
        on_deadline: str | None = None,
        audience: str | None = None,
    ) -> Asked:
        """The request of this place of the run: the one that was asked before, or a new one.

        Args:
            run_id: The run's workflow id.
            name: The place, a name of its journal.
            kind: As of a `Request`.
            question: What is asked, as it is stored.
            digest: Of what is asked: an answer to one question is none to another.
            seconds: For how long it can be answered.
            on_deadline: As of a `Request`.
            audience: As of a `Request`.
        """
        table, now = self._table, self._database.now_ms
        deadline = None if seconds is None else now + int(seconds * 1000)
        with self._database.writing() as connection:
            last = connection.execute(
                sa.select(table.c.request_id, table.c.state, table.c.generation, table.c.digest)
                .where(table.c.run_id == run_id, table.c.name == name)
                .order_by(table.c.generation.desc())
                .limit(1)
                .with_for_update()
            ).first()
            generation = 1 if last is None else last.generation
            if last is not None and (last.state == "used" or last.digest != digest):
                # The run was taken back to before it, or asks something else now.
                generation += 1
                connection.execute(
                    sa.update(table)
                    .where(table.c.request_id == last.request_id, table.c.state != "used")
                    .values(state="withdrawn")
                )
            request_id = _id(run_id, name, generation)
            if last is None or last.request_id != request_id:
                connection.execute(
                    self._database.insert(table)
                    .on_conflict_do_nothing()
                    .values(
                        request_id=request_id,
                        run_id=run_id,
                        name=name,
                        generation=generation,
                        kind=kind,
                        state="open",
                        digest=digest,
                        question=json.dumps(question),
                        audience=audience,
                        on_deadline=on_deadline,
                        created_ms=now,
                        deadline_ms=deadline,
                    )
                )
            elif last.state == "withdrawn":
                connection.execute(
                    sa.update(table)
                    .where(table.c.request_id == request_id)
                    .values(state="open", created_ms=now, deadline_ms=deadline, notified_ms=None)
                )
            row = connection.execute(
                sa.select(table.c.notified_ms, table.c.created_ms, table.c.deadline_ms).where(
                    table.c.request_id == request_id
                )
            ).one()
        return Asked(request_id, row.notified_ms is None, row.created_ms, row.deadline_ms)

    def told(self, request_id: str) -> None:
        """Whoever is to be told of the request has been."""
        table = self._table
        with self._database.writing() as connection:
            connection.execute(
                sa.update(table)
                .where(table.c.request_id == request_id)
                .values(notified_ms=self._database.now_ms)
            )

    def ended(self, request_ids: Collection[str]) -> dict[str, Outcome]:
        """Those of the requests that can't be answered any more, each with how it ended."""
        found: dict[str, Outcome] = {}
        for some in chunks(request_ids):
            found.update(self._ended(some))
        return found

    def _ended(self, request_ids: list[str]) -> dict[str, Outcome]:
        table, late = self._table, reading.is_late(self._database)
        these = table.c.request_id.in_(request_ids)
        with self._database.engine.connect() as connection:
            query = sa.select(table, late.label("late")).where(
                these & ((table.c.state != "open") | late)
            )
            rows = connection.execute(query).all()
        if any(row.late for row in rows):
            with self._database.writing() as connection:
                connection.execute(sa.update(table).where(these & late).values(state="expired"))
            return self._ended(request_ids)
        return {
            row.request_id: Outcome(
                reading.loaded(row.answer),
                row.answered_by,
                row.on_deadline,
                row.state == "withdrawn",
            )
            for row in rows
        }

    def used(self, run_id: str, names: Collection[str], answer: Any = None) -> None:
        """What became of the requests of these places is recorded in the run.

        Args:
            answer: What is to be kept in place of the answers, as it is stored; None if they are.
        """
        table = self._table
        kept = {} if answer is None else {"answer": json.dumps(answer)}
        with self._database.writing() as connection:
            connection.execute(
                sa.update(table)
                .where(table.c.run_id == run_id, table.c.name.in_(list(names)))
                .where(table.c.state.in_(("answered", "expired")))
                .values(state="used", **kept)
            )

    def withdraw(self, request_id: str, owner_xid: str | None) -> None:
        """Nothing waits for the request any more, unless another execution has the run by now.

        Args:
            request_id: The request.
            owner_xid: The execution that gives it up.
        """
        table, runs = self._table, self._database.runs
        is_ours = sa.exists().where(
            runs.c.workflow_uuid == table.c.run_id, runs.c.owner_xid == owner_xid
        )
        with self._database.writing() as connection:
            connection.execute(
                sa.update(table)
                .where(table.c.request_id == request_id, table.c.state == "open", is_ours)
                .values(state="withdrawn")
            )

    def park(self, run_id: str, owner_xid: str, request_ids: Iterable[str], queue: str) -> bool:
        """Leave a run to its row that does nothing but wait for these requests.

        Returns:
            Whether it is; not if one of them can't be answered any more, or if this execution does
            not own the run any more.
        """
        table, waiting = self._table, sorted(request_ids)
        with self._database.writing() as connection:
            rows = connection.execute(
                sa.select(table.c.state, table.c.deadline_ms)
                .where(table.c.request_id.in_(waiting))
                .order_by(table.c.request_id)
                .with_for_update()
            ).all()
            if len(rows) < len(waiting) or any(row.state != "open" for row in rows):
                return False
            until = min((r.deadline_ms for r in rows if r.deadline_ms is not None), default=None)
            return park(
                self._database,
                connection,
                run_id,
                owner_xid,
                FOR_EVER if until is None else until,
                queue,
            )

    # A person's side -------------------------------------------------------------

    def answer(self, request_id: str, answer: Answer, by: str, opened: Open, sealed: Seal) -> None:
        """Answer a request, and wake the run that waits for it; all or nothing.

        Args:
            request_id: Which.
            answer: What is said.
            by: Who says it.
            opened: Reads what the application has written.
            sealed: Writes as it does.

        Raises:
            UnknownRequest: There is none.
            AlreadyAnswered: Somebody was first.
            RequestExpired: Its deadline has passed, or its run has ended.
            InvalidAnswer, NotAllowed: It does not fit what is asked.
        """
        table = self._table
        with self._database.writing() as connection:
            found = reading.found(
                self._database, connection, table.c.request_id == request_id, lock=True
            )
            if not found:
                raise UnknownRequest(request_id)
            request = reading.request_of(found[0], opened)
            _check_open(request)
            checked = answers.checked(request, answer)
            # An application that does not encrypt could not read it.
            is_sealed = sealing.is_sealed(reading.loaded(found[0].question))
            stored = sealed(checked) if is_sealed else checked
            connection.execute(
                sa.update(table)
                .where(table.c.request_id == request_id)
                .values(
                    state="answered",
                    answer=json.dumps(stored),
                    answered_by=by,
                    answered_ms=self._database.now_ms,
                )
            )
            wake(self._database, connection, request.run_id)

    # Those who stop runs, let them go on and delete them -------------------------

    def lock(self, connection: sa.Connection, run_ids: Iterable[str]) -> None:
        """Lock the requests of runs, before their rows."""
        columns = self._table.c
        for some in chunks(run_ids):
            query = sa.select(columns.request_id).where(columns.run_id.in_(some))
            connection.execute(query.order_by(columns.request_id).with_for_update()).all()

    def renew(self, connection: sa.Connection, run_id: str) -> None:
        """A run goes on that was cancelled: its open requests can be answered for as long again.

        Whoever is told of requests is told once more.
        """
        columns, now = self._table.c, self._database.now_ms
        deadline = now + (columns.deadline_ms - columns.created_ms)
        connection.execute(
            sa.update(self._table)
            .where(columns.run_id == run_id, columns.deadline_ms.is_not(None))
            .where(columns.state == "open")
            .values(created_ms=now, deadline_ms=deadline, notified_ms=None)
        )

    def delete(self, connection: sa.Connection, run_ids: Sequence[str]) -> None:
        """Delete what these runs have asked."""
        connection.execute(sa.delete(self._table).where(self._table.c.run_id.in_(run_ids)))


def _id(run_id: str, name: str, generation: int) -> str:
    return hashlib.sha256(f"{run_id}\0{name}\0{generation}".encode()).hexdigest()[:20]


def _check_open(request: Request) -> None:
    if request.answered is not None:
        raise AlreadyAnswered(request.request_id, request.answered_by, request.answered)
    if request.state in ("expired", "used"):
        raise RequestExpired(
            f"Request {request.request_id} could be answered until "
            f"{request.deadline:%Y-%m-%d %H:%M:%S} UTC. The run goes on without an answer."
        )
    if request.state == "withdrawn":
        raise RequestExpired(
            f"Nothing waits for request {request.request_id} any more: run {request.run_id} has "
            "ended, or has given up what asked for it."
        )
