"""A run of a crew or a flow that a worker has, kicked off with nothing but the database."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from dbos import DBOSClient, Serializer, WorkflowSerializationFormat
from dbos import error as dbos_errors

from crewai_dbos._dbos_seam import stored_contents
from crewai_dbos._dbos_seam.database import INTERNAL_QUEUE, Database, is_partitioned
from crewai_dbos._fleet import listing
from crewai_dbos._fleet.listing import Listed
from crewai_dbos._stored import names, work_order
from crewai_dbos.errors import (
    DefinitionError,
    MissingDefinitionError,
    QueueNotFoundError,
    RunConflictError,
    SealedError,
)

_WORKFLOWS = {"crew": names.CREW_WORKFLOW, "flow": names.FLOW_WORKFLOW}

_OTHER_FIELDS: dict[str, dict[str, Any]] = {
    "crew": {},
    "flow": {"input_files": None, "restore_from_state_id": None},
}
"""What an order has beside its inputs, as a kickoff where the definition is would write it."""


@dataclass(frozen=True)
class Kickoff:
    """What somebody wants to have done.

    Attributes:
        definition: The name of a crew or a flow.
        inputs: Of the kickoff.
        run_id: Of the run; None for a new one.
        queue: The name of a DBOS queue that the workers look into; None for DBOS's own.
    """

    definition: str
    inputs: Mapping[str, Any] | None
    run_id: str | None
    queue: str | None


def offered(database: Database) -> list[str]:
    """The names of the crews and flows that workers have which live."""
    return sorted(
        {name for each in _alive(database) for noun in _WORKFLOWS for name in each.named(noun)}
    )


def kick_off(
    database: Database, client: DBOSClient, wanted: Kickoff, serializer: Serializer | None
) -> str:
    """Put a run on a queue, or find the one that has this id.

    Returns:
        Its id.

    Raises:
        MissingDefinitionError: No worker that lives has it.
        DefinitionError: It can't be kicked off from outside, or not on that queue.
        QueueNotFoundError: There is no such queue.
        SealedError: The application encrypts, and `serializer` is not its own.
        UnstorableInputError: The inputs have no JSON form.
        RunConflictError: The id is that of a run of something else, or with other inputs.
    """
    noun, worker = _worker_of(database, wanted.definition)
    if wanted.queue is not None:
        _check_queue(client, wanted.queue)
    _check_serializer(worker, serializer)
    # What an application does not encrypt it could not read.
    its_serializer = serializer if worker.serializer is not None else None
    inputs = None if wanted.inputs is None else dict(wanted.inputs)
    fields = {"inputs": work_order.encoded("The inputs", inputs), **_OTHER_FIELDS[noun]}
    order = work_order.written({noun: wanted.definition}, fields)
    run_id = wanted.run_id or str(uuid4())
    # One that is there already may be this very run, begun in another way.
    with contextlib.suppress(dbos_errors.DBOSConflictingWorkflowError):
        client.enqueue(
            {
                "workflow_name": _WORKFLOWS[noun],
                "queue_name": wanted.queue or INTERNAL_QUEUE,
                "workflow_id": run_id,
                "app_version": worker.version,
                "application_name": worker.application,
                "serialization_type": WorkflowSerializationFormat.PORTABLE,
                "attributes": {names.RUN_ATTRIBUTE: work_order.label(order)},
            },
            work_order.sealed(order, its_serializer),
        )
    _check_own(database, run_id, order, serializer)
    return run_id


def _check_queue(client: DBOSClient, name: str) -> None:
    queue = client.retrieve_queue(name)
    if queue is None:
        raise QueueNotFoundError(
            f"There is no queue {name!r}, so nothing would take the run from there."
        )
    if is_partitioned(queue):
        raise DefinitionError(
            f"The queue {name!r} has partitions, and a kickoff from outside names none, so nothing "
            "would take the run from there. Kick it off where it is, in "
            "SetEnqueueOptions(queue_partition_key=...), or give another queue."
        )


def _worker_of(database: Database, name: str) -> tuple[str, Listed]:
    """The worker that has begun last of those that live and have it, and what it is of."""
    alive = _alive(database)
    having = [(noun, each) for noun in _WORKFLOWS for each in alive if name in each.named(noun)]
    if not having:
        raise MissingDefinitionError(f"No live worker has a crew or a flow {name!r}.")
    if len({noun for noun, _ in having}) > 1:
        raise DefinitionError(f"There are a crew and a flow {name!r}. Kick it off where it is.")
    noun, worker = max(having, key=lambda pair: pair[1].started_ms)
    if name not in worker.by_name(noun):
        raise DefinitionError(
            f"What {noun} {name!r} is given goes through its redact= before it is stored, which is "
            "code of yours, or its worker is older than this. Kick it off where it is."
        )
    return noun, worker


def _alive(database: Database) -> list[Listed]:
    with database.engine.connect() as connection:
        return [each for each in listing.listed(database, connection) if each.is_alive]


def _check_serializer(worker: Listed, serializer: Serializer | None) -> None:
    used = worker.serializer
    if used is not None and (serializer is None or serializer.name() != used):
        raise SealedError(
            f"the application encrypts with {used}, so the inputs have to be encrypted too: "
            "Control(url, serializer=...)"
        )


def _check_own(
    database: Database, run_id: str, order: Mapping[str, Any], serializer: Serializer | None
) -> None:
    """Refuse the id of another run; DBOS keeps that as it is, whatever it is given."""
    with database.engine.connect() as connection:
        stored = stored_contents.order_of(database, connection, run_id)
    if not work_order.is_order(stored) or work_order.opened(stored, serializer) != order:
        raise RunConflictError(
            f"The id {run_id!r} is that of another run, or of one with other inputs."
        )
