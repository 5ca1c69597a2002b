"""The queue of a batch, and the body of its workflow, which lasts as long as its items do.

So a batch can be cancelled by its id.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from dbos import DBOS, SetWorkflowID

from crewai_dbos._dbos_seam import stopping, threads
from crewai_dbos._dbos_seam.context import DBOSContext, detached, open_workflow
from crewai_dbos._dbos_seam.database import CANCELLED, Database, launched_database
from crewai_dbos._dbos_seam.errors import DBOSWorkflowCancelledError
from crewai_dbos._dbos_seam.instance import is_shut_down
from crewai_dbos._journal import notes
from crewai_dbos._journal.execution import Execution
from crewai_dbos._journal.latch import Latch
from crewai_dbos._journal.watching import watcher
from crewai_dbos._runs import aborted, labels, spans
from crewai_dbos._signals import ControlSignal, RunSuspended
from crewai_dbos._stored import names, sealing
from crewai_dbos._stored.cancelled import Cancelled, with_cancelled, without_notes

POLLING = 0.25
"""Seconds between two looks of a process into a queue of ours."""


def enqueue(stored: Mapping[str, Any], run_item: Callable[[dict[str, Any]], Any]) -> list[str]:
    """The body of a batch's workflow: put each item on the queue, once.

    Args:
        stored: The batch.
        run_item: The workflow that an item is a run of.

    Returns:
        The workflow ids of the items, when all have ended.

    Raises:
        RunLeft: The batch was cancelled, and so are its items.
    """
    context = open_workflow()
    batch_id, queue = context.workflow_id, registered(stored)
    ids = []
    try:
        with spans.handing_on(batch_id):
            for number, order in enumerate(stored["items"], 1):
                with SetWorkflowID(names.item(batch_id, number)), labels.labelled(order):
                    handle = DBOS.enqueue_workflow(queue, run_item, order)
                ids.append(handle.workflow_id)
        if not threads.are_limited():  # the items may need the one that this would hold
            _await_items(context, queue, stored)
    except (ControlSignal, DBOSWorkflowCancelledError) as ended:
        error = ended.error if isinstance(ended, ControlSignal) else ended
        if isinstance(error, DBOSWorkflowCancelledError):
            database = launched_database()
            database.patiently(lambda: _cancel_items(database, batch_id))
        raise aborted.left_to_its_row(batch_id) from ended
    return ids


def _await_items(context: DBOSContext, queue: str, stored: Mapping[str, Any]) -> None:
    batch_id, database = context.workflow_id, launched_database()
    execution = Execution(batch_id, context.owner_xid, Latch(batch_id))
    with watcher.in_flight(execution) as wait:
        notes.clear(batch_id, stored)
        database.patiently(lambda: _resume_items(database, batch_id, queue))
        for pause in itertools.chain([POLLING] * 240, itertools.repeat(1.0)):
            if not database.patiently(lambda: _are_at_work(database, batch_id)):
                break
            if is_shut_down():
                raise RunSuspended("DBOS is shut down")
            wait.sleep(pause)


def _are_at_work(database: Database, batch_id: str) -> bool:
    with database.engine.connect() as connection:
        return bool(stopping.alive_children(database, connection, [batch_id]))


def _cancel_items(database: Database, batch_id: str) -> None:
    """Cancel the items of a batch that was cancelled, and say so of each."""
    with database.writing() as connection:
        found = stopping.runs_to_change(database, connection, batch_id, with_children=True)
        if not found or found[0].status != CANCELLED:
            return  # it was resumed
        now = database.now_of(connection)
        batch = notes.cancelled(found[0].attributes)
        by, reason = (None, None) if batch is None else (batch.by, batch.reason)
        attributes = {
            each.run_id: with_cancelled(
                each.attributes, Cancelled(now, by, reason, each.queue, batch_id), sealing.seal
            )
            for each in found[1:]
            if each.is_alive
        }
        stopping.cancel(database, connection, attributes, now)
    stopping.note_cancel()


def _resume_items(database: Database, batch_id: str, queue: str) -> None:
    """Let those items go on that were cancelled with the batch, which goes on itself."""
    with database.writing() as connection:
        for each in stopping.runs_to_change(database, connection, batch_id, with_children=True)[1:]:
            if each.status != CANCELLED:
                continue
            said = notes.cancelled(each.attributes)
            if said is not None and said.batch == batch_id:
                attributes = without_notes(each.attributes)
                stopping.resume(database, connection, each.run_id, attributes, queue, None)


def registered(stored: Mapping[str, Any]) -> str:
    """The name of the queue for a stored batch; it is in the database afterwards."""
    limits = stored["limits"]
    name = names.queue(stored["crew"], limits)
    detached(
        DBOS.register_queue,
        name,
        global_concurrency=limits["concurrency"],
        limiter=limits["limiter"],
        polling_interval_sec=POLLING,
        on_conflict="never_update",
    )
    return name
