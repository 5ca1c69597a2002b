"""Runs by their id: status and result, from any process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dbos import DBOS, DBOSClient, WorkflowStatus
from dbos import error as dbos_errors

from crewai_dbos import _command_lines, _patches
from crewai_dbos._dbos_seam.context import assigned_workflow_id, detached
from crewai_dbos._dbos_seam.database import ALIVE, Database, database_of, launched_database
from crewai_dbos._dbos_seam.decorated import get_dbos_func_name
from crewai_dbos._dbos_seam.instance import (
    constructed_instance,
    has_left_database,
    is_launched,
    is_shut_down,
)
from crewai_dbos._dbos_seam.stored_runs import SUCCESS
from crewai_dbos._dbos_seam.waiting import destroyed
from crewai_dbos._journal import run_scope
from crewai_dbos._requests.request import at
from crewai_dbos._runs import cut_short, unfinished
from crewai_dbos._secrets import known
from crewai_dbos._stored import codec, generics, names, sealing, work_order
from crewai_dbos._threads import in_event_loop, off_the_loop
from crewai_dbos.errors import (
    EventLoopError,
    NotLaunchedError,
    RunConflictError,
    RunNotFoundError,
    UnstorableValueError,
)

logger = logging.getLogger("crewai_dbos")


class RunHandle:
    """A run of a definition.

    Attributes:
        workflow_id: The DBOS workflow id of the run.

    Example::

        run = crew.retrieve(crew.start({"topic": "otters"}).workflow_id)
        print(run.get_result().raw, run.get_status().status)
    """

    def __init__(
        self, workflow_id: str, known: Iterable[type] = (), client: DBOSClient | None = None
    ) -> None:
        self.workflow_id = workflow_id
        self._known = tuple(known)
        self._client = client

    def get_status(self) -> WorkflowStatus:
        """The workflow's status row.

        Raises:
            RunNotFoundError: There is no such run.
            NotLaunchedError: DBOS is not launched.

        Example::

            status = crew.start({"topic": "otters"}).get_status()
            print(status.status, status.attributes)
        """
        status = off_the_loop(self._status)
        if status is None:
            raise RunNotFoundError(self.workflow_id)
        return status

    def _status(self) -> WorkflowStatus | None:
        if self._client is None:
            _check_launched(self.workflow_id)
            found: WorkflowStatus | None = DBOS.get_workflow_status(self.workflow_id)
            return found
        try:
            return self._client.retrieve_workflow(self.workflow_id).get_status()
        except dbos_errors.DBOSNonExistentWorkflowError:
            return None

    def get_result(self) -> Any:
        """Wait for the run and return what the call that started it returned, or would have.

        Raises:
            Exception: The error that the run ended with.
            DriftError, JournalCorruptError, SealedError: The run is stopped until that is put
                right.
            RunCancelledError: It was cancelled; a `DeadlinePassedError` if its time was up.
            RecoveryLimitError: DBOS has given it up.
            RunNotFoundError: There is no such run.
            NotLaunchedError: DBOS is not launched, or was destroyed meanwhile.
            EventLoopError: An event loop runs here, and would wait for it.

        Example::

            from crewai_dbos.errors import RunNotFoundError

            try:
                print(crew.retrieve("report-7").get_result().raw)
            except RunNotFoundError:
                print("Nobody has asked for it.")
        """
        if in_event_loop():
            raise EventLoopError(
                f"The result of run {self.workflow_id!r} was asked for inside an event loop, which "
                "would wait for it. A notebook has one, too. Use: await run.get_result_async()"
            )
        if self._client is None:
            _check_launched(self.workflow_id)
        else:
            self.get_status()  # a client waits for ever for a run that is not there
        result = self._awaited()
        # A workflow of the user's own returns what it returns.
        if self.get_status().name not in names.WORKFLOWS:
            return result
        return as_returned(codec.decode(sealing.opened(result), self._known))

    def _awaited(self) -> Any:
        """What the workflow has returned, on whatever DBOS instance is launched meanwhile."""
        _patches.apply(_patches.WAIT)
        source: Any = DBOS if self._client is None else self._client
        while True:
            begun_with = constructed_instance()
            try:
                return source.retrieve_workflow(self.workflow_id).get_result()
            except Exception as error:
                if self._client is None and (
                    is_shut_down() or begun_with is not constructed_instance()
                ):
                    if (ended := self._ended_meanwhile(error, begun_with)) is not None:
                        raise ended from None
                    # In a workflow it would count as a step of an execution that is another's now.
                    if is_shut_down() or run_scope.in_workflow():
                        raise destroyed(self.workflow_id) from None
                    continue
                raise self._as_raised(error) from None

    def _ended_meanwhile(self, error: Exception, begun_with: DBOS | None) -> Exception | None:
        """What a caller gets of `error` if the run has ended in the time that a destroy gives it.

        None if it has not, or if nobody can tell any more.
        """
        if begun_with is not constructed_instance() or has_left_database():
            return None
        try:
            raised, status = self._as_raised(error), self._status()
        except Exception:  # the database was left just now
            return None
        # The error of a run that has a result is one of the destroy.
        return None if status is not None and status.status in (*ALIVE, SUCCESS) else raised

    def _as_raised(self, error: Exception) -> Exception:
        return unfinished.as_raised(self.workflow_id, error, self._status, self._database)

    def _database(self) -> Database:
        return launched_database() if self._client is None else database_of(self._client)

    async def get_result_async(self) -> Any:
        """As `get_result`, for async code.

        Example::

            run = crew.start({"topic": "otters"})
            print((await run.get_result_async()).raw)
        """
        return await asyncio.to_thread(self.get_result)


def _check_launched(run_id: str) -> None:
    if not is_launched():
        raise NotLaunchedError(
            f"Run {run_id!r} was asked for before DBOS.launch(), so there is no database to find "
            "it in. Launch DBOS first; or, to look at the runs of another process, use "
            "retrieve(run_id, client=DBOSClient(system_database_url=...)), which runs nothing."
        )


def as_returned(result: Any) -> Any:
    """`result` of a run as the call that started it returns it."""
    rebuild = getattr(type(result), "as_returned", None)
    return result if rebuild is None else rebuild(result)


@contextmanager
def own_run(order: Mapping[str, Any], workflow: Callable[..., Any]) -> Iterator[str | None]:
    """Within the block a run of `order` is started, perhaps under an id that is in use already.

    Args:
        order: What is asked for.
        workflow: What it is started with.

    Yields:
        The id, if whoever asks only waits for the run. It was begun by the sync method and this
        is the async one, or the reverse: to DBOS these are two workflows. Or it is taken from a
        queue, of which DBOS would warn, as one is put there that was cut short in this process.

    Raises:
        RunConflictError: The id belongs to a run of something else. Its result is not returned.
    """
    _warn_of_secrets(order)
    run_id = assigned_workflow_id()
    begun = None
    if run_id is not None and (status := _refuse_foreign(run_id, order)) is not None:
        _warn_of_failure(status, order)
        other = status.name != get_dbos_func_name(workflow)
        queued = cut_short.take_up(run_id) or status.queue_name is not None
        # What a workflow of the user's starts has to count as a step of it.
        begun = run_id if other or (queued and not run_scope.in_workflow()) else None
    yield begun
    if run_id is not None:
        _refuse_foreign(run_id, order)


def _refuse_foreign(run_id: str, order: Mapping[str, Any]) -> WorkflowStatus | None:
    status: WorkflowStatus | None = detached(DBOS.get_workflow_status, run_id)
    if status is None or status.input is None:
        return status
    taken = _order_of(status)
    if _kind(taken) != _kind(order):
        raise RunConflictError(
            f"Workflow id {run_id!r} belongs to {_kind(taken)}, and this is {_kind(order)}. Use an "
            "id of its own for each piece of work."
        )
    for field in sorted({*taken, *order} - {*_NOT_ASKED, "limits", "state"}):
        if _comparable(taken.get(field), field) != _comparable(order.get(field), field):
            # Whoever asks here need not be the one whose run it is: nothing of it is told.
            raise RunConflictError(
                f"Workflow id {run_id!r} belongs to a run that differs in its {field}. Use an id "
                "of its own for each piece of work."
            )
    return status


def _order_of(status: WorkflowStatus) -> Mapping[str, Any]:
    args = status.input["args"] if isinstance(status.input, Mapping) else ()
    try:
        return work_order.opened(args[0] if args else {})
    except UnstorableValueError:
        return {}


_NOT_ASKED = ("v", "forms", work_order.CONTEXT, work_order.BUDGET)
"""Fields in which two orders of the same work may differ: it may be asked for in another trace."""


def _comparable(value: Any, field: str) -> Any:
    """A field of a work order; of the items of a batch what they are asked."""
    if field in work_order.MODELS and isinstance(value, str):
        return generics.before(value)
    if field == "task" and isinstance(value, dict):
        return {name: _comparable(item, name) for name, item in value.items()}
    if not isinstance(value, list) or not all(map(work_order.is_order, value)):
        return value
    return [
        {name: item for name, item in work_order.opened(each).items() if name not in _NOT_ASKED}
        for each in value
    ]


def _warn_of_secrets(order: Mapping[str, Any]) -> None:
    for field, name in sorted(set(known.found_in(order))):
        run_scope.warn_once(
            f"What {_kind(order)} is given ({field}) contains the value of {name}. It is "
            "stored with the run. Take it out, and read it inside the tool that needs it."
        )


def _warn_of_failure(status: WorkflowStatus, order: Mapping[str, Any]) -> None:
    """Say that the error which a kickoff is about to raise is an old one, and how to get another.

    A workflow of the user's that is carried out again kicks nothing off anew.
    """
    if status.status != "ERROR" or run_scope.in_workflow():
        return
    run_id, when = status.workflow_id, at(status.completed_at or status.updated_at)
    # A batch can't be forked; its items can.
    fork = "" if "items" in order else f"{_command_lines.fork(run_id)}, or "
    logger.warning(
        "Run %r failed at %s. A kickoff under its id raises the error that was recorded then, and "
        "does nothing anew. When the cause is mended: %stake another workflow id.",
        run_id,
        f"{when:%Y-%m-%d %H:%M:%S} UTC",
        fork,
    )


def _kind(order: Mapping[str, Any]) -> str:
    """What `order` is one of, in words."""
    kinds = {
        "items": "a batch of a crew",
        "turn": "a turn of a conversation",
        "crew": "a kickoff of a crew",
        "flow": "a kickoff of a flow",
        "agent": "a run of an agent",
    }
    return next((kind for field, kind in kinds.items() if field in order), "another workflow")
