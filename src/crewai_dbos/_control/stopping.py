"""Runs that are cancelled, and runs that go on again."""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa

from crewai_dbos import _command_lines
from crewai_dbos._control.forked import check_not_forked, where_the_result_is
from crewai_dbos._dbos_seam import stopping, stored_contents
from crewai_dbos._dbos_seam.database import CANCELLED, DELAYED, ENQUEUED, PENDING, Database
from crewai_dbos._dbos_seam.stopping import RunToChange
from crewai_dbos._dbos_seam.stored_runs import GIVEN_UP
from crewai_dbos._requests.store import Store
from crewai_dbos._stored import names, work_order
from crewai_dbos._stored.cancelled import (
    Cancelled,
    cancelled_in,
    said_in,
    with_cancelled,
    without_notes,
)
from crewai_dbos._stored.sealing import Open, Seal
from crewai_dbos.errors import DefinitionError, RunNotFoundError, RunStateError, SealedError


def cancel(
    database: Database, run_id: str, by: str | None, reason: str | None, seal: Seal
) -> dict[str, int]:
    """Cancel a run, or give up one that has stopped; of a batch its items.

    Returns:
        When, in milliseconds since 1970, by the id of each run that no process carries out.

    Raises:
        RunNotFoundError: There is no such run.
        RunStateError: It has ended.
    """
    with database.writing() as connection:
        found = with_items(database, connection, run_id)
        alive = [each for each in found if each.is_alive or has_stopped(each)]
        if not alive:
            raise _not_to_cancel(database, connection, found[0])
        now = database.now_of(connection)
        inputs = stored_contents.inputs(database, connection, [each.run_id for each in alive])
        attributes = {}
        for each in alive:
            batch = None if each is found[0] else run_id
            said = Cancelled(now, by, reason, each.queue, batch)
            order = stored_contents.first_argument(inputs.get(each.run_id, "null"))
            as_stored = _as_it_is if work_order.is_in_the_clear(order) else seal
            attributes[each.run_id] = with_cancelled(each.attributes, said, as_stored)
        stopping.cancel(database, connection, attributes, now)
    stopping.note_cancel()
    return {each.run_id: now for each in alive if each.status != PENDING}


def _as_it_is(content: Any) -> Any:
    return content


def resume(
    database: Database,
    store: Store,
    run_id: str,
    timeout: float | None,
    opened: Open,
    even_if_forked: bool = False,
) -> None:
    """Let a run go on that was cancelled or stopped; of a batch its items.

    Raises:
        RunForkedError: A fork goes on for it, or for an item.
        RunNotFoundError: There is no such run.
        RunStateError: It has ended, or has not been stopped.
        DefinitionError: `timeout` is no time.
    """
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise DefinitionError(f"timeout is a number of seconds, or None for no limit: {timeout!r}")
    timeout_ms = None if timeout is None else max(1, int(timeout * 1000))
    with database.writing() as connection:
        # Requests are locked before runs, here as everywhere.
        unlocked = with_items(database, connection, run_id, lock=False)
        store.lock(connection, [each.run_id for each in unlocked])
        found = with_items(database, connection, run_id)
        stopped = [each for each in found if _is_stopped(each)]
        if not stopped:
            raise _not_stopped(found[0])
        if not even_if_forked:
            for each in stopped:
                check_not_forked(database, connection, each, "resume")
        of_items = queue_of_items(database, connection, found[0])
        for each in stopped:
            queue = None if each is found[0] else of_items
            let_go_on(database, connection, store, each, queue, timeout_ms, opened)


def let_go_on(
    database: Database,
    connection: sa.Connection,
    store: Store,
    run: RunToChange,
    queue: str | None,
    timeout_ms: int | None,
    opened: Open,
) -> None:
    """Let a run go on that is not at work, in a transaction that has locked its requests and it.

    Args:
        queue: What it is taken from, if that is not said in its attributes.
    """
    queue = _queue_of(run, opened) or queue
    store.renew(connection, run.run_id)
    attributes = without_notes(run.attributes)
    stopping.resume(database, connection, run.run_id, attributes, queue, timeout_ms)


def with_items(
    database: Database, connection: sa.Connection, run_id: str, *, lock: bool = True
) -> list[RunToChange]:
    """The row of the run, and after it those of the items of a batch."""
    found = stopping.runs_to_change(database, connection, run_id, lock=lock)
    if not found:
        raise RunNotFoundError(run_id)
    if found[0].name == names.BATCH_WORKFLOW:
        return stopping.runs_to_change(database, connection, run_id, with_children=True, lock=lock)
    return found


def _is_stopped(run: RunToChange) -> bool:
    """Whether nobody carries the run out, nor will."""
    if run.status == PENDING:
        return "waiting" in said_in(run.attributes)  # for its definition
    return run.status in (CANCELLED, GIVEN_UP)


def has_stopped(run: RunToChange) -> bool:
    """Whether the run has stopped, and could be resumed."""
    return run.status == GIVEN_UP or (
        run.status == CANCELLED and "stopped" in said_in(run.attributes)
    )


def _queue_of(run: RunToChange, opened: Open) -> str | None:
    """What the run was taken from before it was cancelled, or stopped."""
    try:
        cancelled = cancelled_in(run.attributes, opened)
    except SealedError:
        return None
    if cancelled is not None and cancelled.queue is not None:
        return cancelled.queue
    noted = said_in(run.attributes).get(names.QUEUE)
    return noted if isinstance(noted, str) else None


def queue_of_items(database: Database, connection: sa.Connection, batch: RunToChange) -> str | None:
    """What the items of a batch are taken from, whatever they were cancelled with."""
    if batch.name != names.BATCH_WORKFLOW:
        return None
    order = stored_contents.order_of(database, connection, batch.run_id)
    try:
        return names.queue(order["crew"], order["limits"])
    except (TypeError, LookupError):
        return None


def _not_to_cancel(
    database: Database, connection: sa.Connection, run: RunToChange
) -> RunStateError:
    if run.status == CANCELLED:
        then = where_the_result_is(database, connection, run.run_id)
        told = f"was cancelled already. {then}"
    else:
        told = f"has ended ({run.status}), so there is nothing to cancel."
    return RunStateError(run.run_id, run.status, f"Run {run.run_id!r} {told}")


def _not_stopped(run: RunToChange) -> RunStateError:
    run_id = run.run_id
    told = {
        "SUCCESS": "is done, so there is nothing to go on with.",
        "ERROR": "has failed, and would fail again. Fork it from before what went wrong: "
        f"{_command_lines.show(run_id)}, then {_command_lines.fork(run_id, 'PLACE')}",
        ENQUEUED: f"is on its queue ({run.queue or 'for runs that go on'}) already. If no process "
        f"takes it, none has its application version ({run.version}; to another one: "
        f"{_command_lines.move(run_id)}), or none listens to that queue.",
        DELAYED: "waits: for a person, whose answer lets it go on (crewai-dbos inbox), or for its "
        "time to begin.",
        PENDING: f"is carried out by {run.executor!r}. If that process is gone, start one with the "
        f"same executor_id, or call DBOS.resume_workflow({run_id!r}), which makes what is in "
        "flight again.",
    }.get(run.status, f"is {run.status}.")
    return RunStateError(run_id, run.status, f"Run {run_id!r} {told}")
