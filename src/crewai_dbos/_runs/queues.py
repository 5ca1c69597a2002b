"""The queue of a batch, and the body of its workflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dbos import DBOS, SetWorkflowID

from crewai_dbos._dbos_seam.context import detached, open_workflow
from crewai_dbos._runs import labels
from crewai_dbos._stored import names

POLLING = 0.25
"""Seconds between two looks of a process into a queue of ours."""


def enqueue(stored: Mapping[str, Any], run_item: Callable[[dict[str, Any]], Any]) -> list[str]:
    """The body of a batch's workflow: put each item on the queue, once.

    Args:
        stored: The batch.
        run_item: The workflow that an item is a run of.

    Returns:
        The workflow ids of the items.
    """
    context = open_workflow()
    batch_id, queue = context.workflow_id, registered(stored)
    ids = []
    for number, order in enumerate(stored["items"], 1):
        with SetWorkflowID(names.item(batch_id, number)), labels.labelled(order):
            handle = DBOS.enqueue_workflow(queue, run_item, order)
        ids.append(handle.workflow_id)
    return ids


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
