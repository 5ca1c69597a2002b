"""Carrying out a kickoff of a flow, in a workflow of its own or in one that it joins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from crewai.flow.async_feedback.types import HumanFeedbackPending
from crewai.flow.flow import Flow

from crewai_dbos._crewai_seam.flow import set_state
from crewai_dbos._flows import feedback, fingerprint, run_flow, sessions, work_orders
from crewai_dbos._flows.state import changes, tracking
from crewai_dbos._flows.work_orders import FlowWorkOrder
from crewai_dbos._journal.scope import Scope, stable_id
from crewai_dbos._objects import events, hooks_of_crews
from crewai_dbos._runs import body, results, workflows
from crewai_dbos._runs.definition import FlowDefinition
from crewai_dbos._runs.kind import Kind
from crewai_dbos._runs.registry import flows
from crewai_dbos._stored import codec, names
from crewai_dbos._threads import on_a_thread


def perform(definition: FlowDefinition, order: FlowWorkOrder, own: bool = False) -> Any:
    """Carry out `order` in the workflow that is open here.

    Args:
        own: Whether the workflow was opened for this order.
    """
    with _joined(definition, order, own) as scope, _flow(definition, order, scope, own) as flow:
        return _returned(flow, _carried_out(flow, order, scope), own)


async def aperform(
    definition: FlowDefinition,
    order: FlowWorkOrder,
    own: bool = False,
    method: Callable[..., Any] | None = None,
) -> Any:
    """As `perform`, for async code.

    Args:
        method: What the flow is kicked off with, if not with its class's method: that has been
            called already, and has come to this.
    """
    with _joined(definition, order, own) as scope:

        async def work() -> Any:
            with _flow(definition, order, scope, own) as flow:
                await scope.unless_abandoned()
                if order.turn is not None:
                    turn = lambda: _carried_out(flow, order, scope)  # noqa: E731
                    return _returned(flow, await on_a_thread(turn), own)
                begin = method or type(flow).kickoff_async
                return _returned(flow, await begin(flow, **order.arguments()), own)

        return await body.off_the_loop_of_dbos(work)


KIND = Kind(
    registry=flows,
    load=work_orders.load,
    perform=perform,
    aperform=aperform,
    workflow=workflows.run_flow,
    async_workflow=workflows.run_flow_async,
    instead="kickoff_async or akickoff",
    blocks_loops=True,
)


def _carried_out(flow: Flow[Any], order: FlowWorkOrder, scope: Scope) -> Any:
    if order.turn is None:
        return flow.kickoff(**order.arguments())
    reply = sessions.take(flow, order.turn)
    sessions.record(flow, scope)
    return reply


def _joined(
    definition: FlowDefinition, order: FlowWorkOrder, own: bool
) -> AbstractContextManager[Scope]:
    return body.joined(definition, names.flow(definition.name), None if own else order.digest())


@contextmanager
def _flow(
    definition: FlowDefinition, order: FlowWorkOrder, scope: Scope, own: bool
) -> Iterator[Flow[Any]]:
    """The flow that works in `scope`."""
    with hooks_of_crews.of_run() as made:
        built = body.built(definition.build, f"flow {definition.name!r}", scope)
    scope.look_for_secrets(built)
    fingerprint.check(definition.name, built, scope)
    begins = sessions.begins(order, scope)
    if begins is not None:
        set_state(built, begins)
    elif not (order.inputs or {}).get("id") and built is not definition.owner:
        run_id = scope.run_id if own else str(stable_id(scope, "state"))
        changes.set_id(built, run_id)
    flow, recorded = run_flow.flow_of_run(built, scope, definition.options)
    # A workflow of the flow's own fails as the flow fails; another goes on, perhaps.
    ended = nullcontext() if own else body.ending(scope)
    with ended, recorded, events.handled(), hooks_of_crews.in_effect(made):
        try:
            yield flow
        finally:
            run_flow.finish(flow)
            definition.shown(flow, scope.run_id)


def _returned(flow: Flow[Any], result: Any, own: bool) -> Any:
    if isinstance(result, HumanFeedbackPending):
        found = feedback.pending(result, changes.classes(flow))
        return codec.Encoded(results.encoded(found, changes.classes(flow))) if own else found
    if not own:
        return tracking.untracked(result)
    # The class of a state may be one that crewAI has made.
    return codec.Encoded(results.encoded(result, changes.classes(flow)))
