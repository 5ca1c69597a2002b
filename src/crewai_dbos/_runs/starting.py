"""Starts a run, or joins the workflow that is open: for the durable agent, crew and flow alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from dbos import DBOS, PortableWorkflowError, SetWorkflowID
from pydantic import BaseModel

from crewai_dbos import _patches, _tracebacks
from crewai_dbos._dbos_seam import at_work
from crewai_dbos._dbos_seam.context import (
    assigned_workflow_id,
    detached,
    noted_with_the_run,
    partition_key,
)
from crewai_dbos._dbos_seam.database import is_partitioned
from crewai_dbos._dbos_seam.instance import is_launched
from crewai_dbos._journal import run_scope
from crewai_dbos._people.policy import People
from crewai_dbos._runs import failure, labels, results, spans, unfinished, unrecorded
from crewai_dbos._runs.failure import FailedRun
from crewai_dbos._runs.handle import RunHandle, as_returned, own_run
from crewai_dbos._runs.kind import Kind, WorkOrder
from crewai_dbos._signals import ControlSignal, RunLeft
from crewai_dbos._stored import budget, codec, sealing, work_order
from crewai_dbos._threads import in_event_loop, off_the_loop
from crewai_dbos.errors import (
    DefinitionError,
    EventLoopError,
    NotLaunchedError,
    OutsideRunError,
    QueueNotFoundError,
)

_ASSIGNED = "_crewai_dbos_assigned"
_GIVEN = "_crewai_dbos_given"

D = TypeVar("D", bound=Any)
W = TypeVar("W", bound=WorkOrder)
Classes = Iterable[type]


def show_as(view: BaseModel, other: BaseModel, **private: Any) -> None:
    """Make `view` a view of `other`: the same fields, without building them again.

    Args:
        view: Any object of a pydantic class, also one without fields yet.
        other: What it shows.
        private: Private attributes that are its own.
    """
    own = {**(other.__pydantic_private__ or {}), **private}
    object.__setattr__(view, "__dict__", dict(other.__dict__))
    object.__setattr__(view, "__pydantic_extra__", other.__pydantic_extra__)
    object.__setattr__(view, "__pydantic_fields_set__", set(other.__pydantic_fields_set__))
    object.__setattr__(view, "__pydantic_private__", own)


def prepared_to_record(what: str, definition: Any) -> bool:
    """Whether a kickoff of `what` here is recorded on its own; makes ready for that, or warns.

    Args:
        definition: Its definition, which says who approves what it does, and what it may cost.

    Raises:
        OutsideRunError: It is not, and nobody could be asked, or would count.
        NotLaunchedError: It is not, and the process refuses that.
    """
    if not is_launched():
        _check_needs_no_record(what, definition, "before DBOS.launch()")
        unrecorded.tell(what)
        return False
    _patches.apply(_patches.CALL)
    _patches.apply(_patches.WAIT)
    if not run_scope.in_step():
        return True
    run_scope.warn_once(
        f"{what} runs inside a DBOS step, so its calls are not recorded one by one: after a crash "
        "the whole step is made again. Call it from the workflow instead."
    )
    _check_needs_no_record(what, definition, "inside a DBOS step")
    return False


def _check_needs_no_record(what: str, definition: Any, where: str) -> None:
    people: People | None = definition.people
    if definition.budget is not None or budget.for_run() is not None:
        raise OutsideRunError(
            f"{what} was kicked off {where}, where nothing is recorded, so its budget would not be "
            "counted. Launch DBOS first, and call it from a workflow and not from a step."
        )
    if people is not None and people.approve_tools:
        raise OutsideRunError(
            f"{what} was kicked off {where}, where nothing is recorded and nobody can be asked, "
            "and its tools are to be approved (approve_tools). Launch DBOS first, and call it from "
            "a workflow and not from a step."
        )


def check_inputs(inputs: Any) -> None:
    """Refuse inputs of a kickoff that are no mapping.

    Raises:
        TypeError: They are something else.
    """
    if inputs is not None and not isinstance(inputs, Mapping):
        raise TypeError(f"inputs must be a dict or Mapping, got {type(inputs).__name__}")


def keep_assigned_id(view: BaseModel) -> None:
    """Let `view` carry the workflow id and budget that are set here to where it is kicked off."""
    view.__dict__[_ASSIGNED] = assigned_workflow_id()
    view.__dict__[_GIVEN] = budget.given()


def kept_id(view: BaseModel) -> str | None:
    """The workflow id that `keep_assigned_id` has kept, if it has."""
    found: str | None = view.__dict__.get(_ASSIGNED)
    return found


def assigned_id(view: BaseModel) -> AbstractContextManager[Any]:
    """In the block a run gets the id that `view` carries, if it does."""
    run_id = kept_id(view)
    return nullcontext() if run_id is None else SetWorkflowID(run_id)


def given_budget(view: BaseModel) -> AbstractContextManager[Any]:
    """In the block a run gets the budget that `view` carries, if it does."""
    given = view.__dict__.get(_GIVEN)
    return nullcontext() if given is None else budget.giving(given)


def carry_out(kind: Kind[D, W], definition: D, order: W, view: Any, known: Classes = ()) -> Any:
    """Carry out `order` in the workflow that is open here, or in one of its own.

    Args:
        kind: What it is an order of.
        definition: Its definition.
        order: What is asked for.
        view: The object that was called; a stream of it may carry the id for the workflow.
        known: Classes that may occur in the result without being importable.

    Raises:
        EventLoopError: An event loop runs here, and would wait for it.
        UnstorableInputError: Another process could not rebuild `order`.
        RunConflictError: The assigned id belongs to a run of something else.
    """
    try:
        return _carry_out(kind, definition, order, view, known)
    except KeyboardInterrupt as error:
        raise _tracebacks.shortened(error) from None
    except BaseException as error:
        raise _tracebacks.shortened(error)  # noqa: B904


def _carry_out(kind: Kind[D, W], definition: D, order: W, view: Any, known: Classes) -> Any:
    joins = run_scope.in_workflow()
    check_loop(kind, definition, joins=joins)
    with given_budget(view):
        if joins:
            return as_returned(kind.perform(definition, order, False))
        stored = order.stored(definition)
    with assigned_id(view), noted_with_the_run(kind.attributes(order)):
        return off_the_loop(lambda: run(stored, kind.workflow, known))


async def acarry_out(
    kind: Kind[D, W], definition: D, order: W, view: Any, known: Classes = ()
) -> Any:
    """As `carry_out`, for async code."""
    try:
        return await _acarry_out(kind, definition, order, view, known)
    except BaseException as error:
        raise _tracebacks.shortened(error)  # noqa: B904


async def _acarry_out(kind: Kind[D, W], definition: D, order: W, view: Any, known: Classes) -> Any:
    joins = run_scope.in_workflow()
    with given_budget(view):
        if joins:
            return as_returned(await kind.aperform(definition, order, False))
        stored = order.stored(definition)
    with assigned_id(view), noted_with_the_run(kind.attributes(order)):
        return await arun(stored, kind.async_workflow, known)


def check_loop(
    kind: Kind[Any, Any], definition: Any, *, joins: bool, instead: str | None = None
) -> None:
    """Refuse a sync call that the event loop which runs here would wait for.

    Args:
        kind: What is called.
        definition: Its definition.
        joins: Whether it joins a workflow, whose loop other runs may wait for.
        instead: What async code calls, if not what the kind says.

    Raises:
        EventLoopError: The loop would wait.
    """
    if in_event_loop() and (joins or not kind.blocks_loops):
        raise EventLoopError(
            f"{kind.registry.cls} {definition.name!r} was called synchronously inside an event "
            f"loop, which would wait for it. Use {instead or kind.instead}."
        )


def run(
    order: dict[str, Any], workflow: Callable[[dict[str, Any]], Any], known: Classes = ()
) -> Any:
    """What a run of `order` returns: a new one, or the one that has the assigned id.

    Args:
        order: Of the run, as plain JSON.
        workflow: The workflow that carries it out.
        known: Classes that may occur in its result without being importable.

    Raises:
        RunConflictError: The assigned id belongs to a run of something else.
    """
    with results.awaited(), spans.carrying(), own_run(order, workflow) as begun:
        if begun is not None:
            return RunHandle(begun, known).get_result()
        try:
            with labels.labelled(order), at_work.calling():
                carried_out = _carried_out(lambda: workflow(work_order.sealed(order)))
            return _returned(carried_out, known)
        except RunLeft as left:
            run_id = left.run_id
        return RunHandle(run_id, known).get_result()


async def arun(
    order: dict[str, Any],
    workflow: Callable[[dict[str, Any]], Awaitable[Any]],
    known: Classes = (),
) -> Any:
    """As `run`, for async code."""
    with results.awaited(), spans.carrying(), own_run(order, workflow) as begun:
        if begun is not None:
            return await RunHandle(begun, known).get_result_async()
        try:
            sealed = work_order.sealed(order)
            with labels.labelled(order), at_work.calling():
                carried_out = await _acarried_out(lambda: workflow(sealed))
            return _returned(carried_out, known)
        except RunLeft as left:
            run_id = left.run_id
        return await RunHandle(run_id, known).get_result_async()


def _carried_out(call: Callable[[], Any]) -> Any:
    """What the workflow returns that is called here, or the user's error that it ends with."""
    try:
        return call()
    except _ENDS as ended:
        error = _as_raised(ended)
    raise error


async def _acarried_out(call: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await call()
    except _ENDS as ended:
        error = _as_raised(ended)
    raise error


_ENDS = (FailedRun, PortableWorkflowError, *unfinished.OF_DBOS, ControlSignal)


def _as_raised(ended: Any) -> BaseException:
    """What a caller gets for one of `_ENDS`."""
    if isinstance(ended, ControlSignal):
        return ended.error
    if isinstance(ended, unfinished.OF_DBOS):
        return unfinished.as_raised(unfinished.run_of(ended), ended)
    return failure.as_raised(ended)


def _returned(stored: Any, known: Iterable[type]) -> Any:
    return as_returned(codec.decode(sealing.opened(stored), known))


def _check_queue(what: str, name: str) -> None:
    queue = detached(DBOS.retrieve_queue, name)
    if queue is None:
        raise QueueNotFoundError(
            f"{what} is to be put on the queue {name!r}, which is not registered, so nothing "
            f"would take it from there. Register it first: DBOS.register_queue({name!r})"
        )
    if is_partitioned(queue) and partition_key() is None:
        raise DefinitionError(
            f"{what} is to be put on the queue {name!r}, which has partitions, and none is named, "
            "so nothing would take it from there. Start it in "
            "`with SetEnqueueOptions(queue_partition_key=...)`."
        )


def start(
    what: str,
    workflow: Callable[[dict[str, Any]], Any],
    stored: Callable[[], dict[str, Any]],
    queue: str | None,
    known: Classes = (),
) -> RunHandle:
    """Begin a run and return at once.

    Args:
        what: Of what, in words.
        workflow: The workflow that carries it out.
        stored: Makes the order of the run as plain JSON.
        queue: The name of a registered DBOS queue to put it on.
        known: Classes that may occur in its result without being importable.

    Raises:
        NotLaunchedError: DBOS is not launched.
        QueueNotFoundError: There is no such queue.
        DefinitionError: The queue has partitions, and none is named.
        RunConflictError: The workflow id belongs to a run of something else.
    """
    if not is_launched():
        raise NotLaunchedError(
            f"{what} was started before DBOS.launch(), so nothing would carry the run out. Launch "
            "DBOS first."
        )
    _patches.apply(_patches.CALL)
    _patches.apply(_patches.WAIT)
    if queue is not None:
        _check_queue(what, queue)
    order = stored()
    with spans.carrying(), own_run(order, workflow) as begun:
        if begun is not None:
            return RunHandle(begun, known)
        with labels.labelled(order):
            if queue is None:
                handle = DBOS.start_workflow(workflow, work_order.sealed(order))
            else:
                handle = DBOS.enqueue_workflow(queue, workflow, work_order.sealed(order))
    return RunHandle(handle.workflow_id, known)
