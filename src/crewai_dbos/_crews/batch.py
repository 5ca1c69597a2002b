"""Batches: one kickoff of a crew for each of several inputs, each a run of its own on a queue."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from crewai.crews.crew_output import CrewOutput
from crewai.types.usage_metrics import UsageMetrics
from dbos import DBOS

from crewai_dbos._crews.work_orders import CrewWorkOrder
from crewai_dbos._dbos_seam.context import assigned_workflow_id, detached
from crewai_dbos._dbos_seam.database import ALIVE, RunRow, launched_database
from crewai_dbos._dbos_seam.rows import recorded_rows
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.entry import Entry, read_entry
from crewai_dbos._runs import failure, labels, queues, spans, unfinished, workflows
from crewai_dbos._runs.definition import CrewDefinition
from crewai_dbos._runs.handle import RunHandle, own_run
from crewai_dbos._signals import RunSuspended
from crewai_dbos._stored import names
from crewai_dbos._stored.work_order import sealed
from crewai_dbos.errors import BatchError, DefinitionError, RunNotFoundError

_EXECUTION = re.compile(r"crew:[^/]+/task:[^/]+/agent:[^/]+#\d+")


class RateLimit(TypedDict):
    """How many runs of a queue may begin in a period of so many seconds, as DBOS takes it."""

    limit: int
    period: float


def limits(concurrency: Any, limiter: Any) -> dict[str, Any]:
    """How many items a queue lets through, as it is stored.

    Raises:
        DefinitionError: `concurrency` would let none through, or `limiter` does not say how many.
    """
    if concurrency is not None and not (type(concurrency) is int and concurrency > 0):
        raise DefinitionError(
            f"concurrency is a whole number from 1, or None for any number; not {concurrency!r}"
        )
    if limiter is not None and not (
        isinstance(limiter, Mapping)
        and set(limiter) == {"limit", "period"}
        and type(limiter["limit"]) is int
        and all(isinstance(n, (int, float)) and n > 0 for n in limiter.values())
    ):
        raise DefinitionError(
            'limiter says how many items may begin in a period of seconds: {"limit": 50, '
            f'"period": 60.0}}; not {limiter!r}'
        )
    return {"concurrency": concurrency, "limiter": None if limiter is None else dict(limiter)}


def run(
    definition: CrewDefinition,
    orders: Sequence[CrewWorkOrder],
    limits: Mapping[str, Any],
    *,
    return_exceptions: bool,
) -> list[Any]:
    """Carry out `orders`, or what is missing of them, and wait.

    Args:
        limits: ``concurrency`` and ``limiter`` of the queue.
        return_exceptions: Whether to return the errors of items in their place.

    Returns:
        Their outputs, by position.

    Raises:
        BatchError: Some failed; all others are done.
        RunConflictError: The workflow id belongs to a batch of something else.
    """
    stored = {
        "v": names.INPUT_VERSION,
        "crew": definition.name,
        "items": [order.stored(definition) for order in orders],
        "limits": dict(limits),
    }
    batch_id = None if run_scope.in_workflow() else assigned_workflow_id()
    again = batch_id is not None and detached(DBOS.get_workflow_status, batch_id) is not None
    with (
        spans.carrying(),
        labels.labelled(stored),
        own_run(stored, workflows.run_batch) as begun,
    ):
        if begun is None:
            handle = DBOS.start_workflow(workflows.run_batch, sealed(stored))
        else:
            handle = DBOS.retrieve_workflow(begun, existing_workflow=False)
    ids = _items_that_ended(handle.workflow_id, len(orders)) if again else None
    if ids is None:
        ids = _ids(handle)
    if again:
        _try_again(ids, queues.registered(stored))
    outputs: list[Any] = []
    errors: dict[int, Exception] = {}
    for position, run_id in enumerate(ids):
        try:
            outputs.append(RunHandle(run_id).get_result())
        except Exception as error:
            outputs.append(error if return_exceptions else None)
            errors[position] = error
    if errors and not return_exceptions:
        raise BatchError(handle.workflow_id, outputs, errors)
    return outputs


def _items_that_ended(batch_id: str, count: int) -> list[str] | None:
    """The ids of the items of a batch that was begun before, when all have ended.

    Its own workflow may belong to a process that is gone, while others carry out its items.

    Returns:
        None if the batch has ended itself: its result has them.
    """
    database = launched_database()
    ids = [names.item(batch_id, number) for number in range(1, count + 1)]

    def look() -> dict[str, RunRow]:
        with database.engine.connect() as connection:
            return database.rows(connection, [batch_id, *ids])

    while True:
        rows = database.patiently(look)
        at_work = [run_id for run_id in ids if run_id not in rows or rows[run_id].status in ALIVE]
        if batch_id not in rows or rows[batch_id].status not in ALIVE:
            return None
        if not at_work:
            return ids
        time.sleep(queues.POLLING)


def _ids(handle: Any) -> list[str]:
    """The ids of the items of a batch, all of which have ended."""
    batch_id: str = handle.workflow_id
    try:
        try:
            ids: list[str] = handle.get_result()
        except RunSuspended:
            # DBOS records nothing of a signal: this is the same step of a workflow of the user's.
            ids = DBOS.retrieve_workflow(batch_id, existing_workflow=False).get_result()
    except unfinished.OF_DBOS as error:
        raise unfinished.as_raised(batch_id, error) from None
    return ids


def usage(outputs: Sequence[Any]) -> UsageMetrics:
    """The token usage of all items that have an output."""
    total = UsageMetrics()
    for output in outputs:
        if isinstance(output, CrewOutput):
            total.add_usage_metrics(output.token_usage)
    return total


def _try_again(ids: Sequence[str], queue: str) -> None:
    """Let those items go on that have failed or were stopped."""
    for run_id in ids:
        status = detached(DBOS.get_workflow_status, run_id)
        if status is None:
            raise RunNotFoundError(run_id)
        if status.status == "ERROR":
            step = _where_it_failed(run_id, status.error)
            detached(DBOS.rewind_workflow, run_id, start_step=step, queue_name=queue)
        elif status.status in ("CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"):
            detached(DBOS.resume_workflow, run_id, queue_name=queue)


def _where_it_failed(run_id: str, error: Any) -> int:
    """The step from which a failed run is made again.

    The call that failed, where the run's own error is that of a call. Otherwise the last execution
    of an agent: what it answered was empty, or not good enough for a guardrail.
    """
    rows = recorded_rows(run_id)
    entries = [entry for row in rows if (entry := read_entry(row)) is not None]
    own = _identity(failure.recorded_in(error))
    same = [
        e for e in entries if own and e.is_readable and _identity(e.payload().get("error")) == own
    ]
    work = min((e.path for e in same if e.what == names.END), key=len, default="")
    inside = f"{work}/" if work else ""
    calls = [e.step_id for e in same if e.what != names.END and e.name.startswith(inside)]
    if calls:
        return min(calls)
    work = work or _last_execution(entries)
    made = [e.step_id for e in entries if e.name.startswith(f"{work}/")] if work else []
    return min(made, default=max((row.step_id for row in rows), default=0) + 1)


def _last_execution(entries: Sequence[Entry]) -> str:
    """The path of the agent that was at work last in a task."""
    for entry in sorted(entries, key=lambda entry: entry.step_id, reverse=True):
        if found := _EXECUTION.match(entry.name):
            return found[0]
    return ""


def _identity(error: Any) -> tuple[str, str] | None:
    """Class and message of a recorded error."""
    if not isinstance(error, Mapping):
        return None
    return str(error.get("type")), str(error.get("message"))
