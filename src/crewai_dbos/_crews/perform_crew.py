"""Carrying out a kickoff of a crew, in a workflow of its own or in one that it joins."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from crewai import Crew
from crewai.crews.crew_output import CrewOutput

from crewai_dbos._crewai_seam.events import forget_tasks
from crewai_dbos._crews import fingerprint, member, run_crew, work_orders
from crewai_dbos._crews.ids import Ids
from crewai_dbos._crews.work_orders import CrewWorkOrder
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.scope import Scope
from crewai_dbos._objects import events, hooks_of_crews, knowledge
from crewai_dbos._runs import body, made_of, workflows
from crewai_dbos._runs.definition import CrewDefinition
from crewai_dbos._runs.kind import Kind
from crewai_dbos._runs.made_of import Unfit
from crewai_dbos._runs.registry import crews
from crewai_dbos._stored import codec, names
from crewai_dbos.errors import UnstorableValueError

logger = logging.getLogger("crewai_dbos")


def perform(
    definition: CrewDefinition,
    order: CrewWorkOrder,
    own: bool = False,
    method: Callable[..., Any] | None = None,
) -> Any:
    """Carry out `order` in the workflow that is open here.

    Args:
        own: Whether the workflow was opened for this order.
        method: What the crew is kicked off with, if not with its class's method: that has been
            called already, and has come to this.
    """
    with _joined(definition, order, own) as scope, _crew(definition, scope, own) as crew:
        begin = method or type(crew).kickoff
        return _storable(begin(crew, **_arguments(order)))


async def aperform(
    definition: CrewDefinition,
    order: CrewWorkOrder,
    own: bool = False,
    method: Callable[..., Any] | None = None,
) -> Any:
    """As `perform`, through crewAI's async methods."""
    with _joined(definition, order, own) as scope:

        async def work() -> Any:
            with _crew(definition, scope, own) as crew:
                await scope.unless_abandoned()
                begin = method or type(crew).akickoff
                return _storable(await begin(crew, **_arguments(order)))

        return await body.off_the_loop_of_dbos(work)


KIND = Kind(
    registry=crews,
    load=work_orders.load,
    perform=perform,
    aperform=aperform,
    workflow=workflows.run_crew,
    async_workflow=workflows.run_crew_async,
    instead="kickoff_async or akickoff",
)


def _joined(
    definition: CrewDefinition, order: CrewWorkOrder, own: bool
) -> AbstractContextManager[Scope]:
    return body.joined(definition, names.crew(definition.name), None if own else order.digest())


@contextmanager
def _crew(definition: CrewDefinition, scope: Scope, own: bool) -> Iterator[Crew]:
    """The crew that works in `scope`."""
    with knowledge.unloaded(), hooks_of_crews.of_run() as made:
        template = body.built(definition.build, f"crew {definition.name!r}", scope)
    ids = _check(definition, template, scope)
    crew = run_crew.crew_of_run(definition, template, scope, ids)
    try:
        # A workflow of the crew's own fails as the crew fails; another goes on, perhaps.
        ended = nullcontext() if own else body.ending(scope)
        with member.remembering(), ended, events.handled(), hooks_of_crews.in_effect(made):
            try:
                yield crew
            finally:
                run_crew.finish(crew)
    finally:
        forget_tasks(crew.tasks)


def _arguments(order: CrewWorkOrder) -> dict[str, Any]:
    inputs = None if order.inputs is None else dict(order.inputs)
    files = None if order.input_files is None else dict(order.input_files)
    return {"inputs": inputs, "input_files": files}


def _check(definition: CrewDefinition, template: Crew, scope: Scope) -> Ids:
    """Stop the run if its crew is made up otherwise than when it began.

    Returns:
        The ids that its crew and tasks had then.
    """
    now, ids = fingerprint.of_crew(template), Ids.of(template)
    call = Call(
        names.DEFINITION,
        kind="definition",
        collect=ids.as_json,
        restore=lambda extra: ids.take(extra),
    )
    ids.forget_if(scope.is_recorded(call.what))
    recorded = made_of.recorded(scope, now, call)
    _compare(definition, recorded, now, scope)
    return ids


def _compare(
    definition: CrewDefinition,
    recorded: fingerprint.Fingerprint,
    now: fingerprint.Fingerprint,
    scope: Scope,
) -> None:
    if recorded == now:
        return
    begun = _begun(scope, recorded, now)
    found = fingerprint.changes(recorded, now)
    if found.structure:
        unfit = [
            Unfit(told, ("",) if numbers is None else tuple(begun[n] for n in sorted(numbers)))
            for told, numbers in fingerprint.unfit(recorded, now, begun)
        ]
        may_end_otherwise = fingerprint.may_end_otherwise(recorded, now, begun)
        if may_end_otherwise and not unfit:
            unfit = _told_already(scope)
        made_of.go_on_or_stop(
            scope,
            f"crew {definition.name!r}",
            now,
            found.structure,
            unfit,
            may_end_otherwise=may_end_otherwise,
        )
    if found.texts:
        scope.warn_of_drift(
            f"Run {scope.run_id}: changed since the crew {definition.name!r} began: "
            f"{', '.join(found.texts)}. What is recorded is used; calls not recorded yet are made "
            "with the new code."
        )


def _begun(
    scope: Scope, recorded: fingerprint.Fingerprint, now: fingerprint.Fingerprint
) -> dict[int, str]:
    """By its number, the place of each task that something is recorded of.

    That is its condition where it was skipped, or has no condition any more.
    """
    inside = [name for name, _ in scope.entries()]
    found = (re.match(r"(task:(\d+)[^/]*)/", name) for name in inside)
    begun = {int(match[2]): match[1] for match in found if match}
    conditional = fingerprint.conditional_tasks(now)
    for nth, number in enumerate(fingerprint.conditional_tasks(recorded), 1):
        asked = names.numbered("", names.CONDITION, nth)
        if asked in inside and (number not in begun or number not in conditional):
            begun[number] = asked
    return begun


def _told_already(scope: Scope) -> list[Unfit]:
    """What had the output of the crew, which may be another with what it does now."""
    first = f"{names.AFTER_KICKOFF}#1"
    had = any(name == first for name, _ in scope.entries())
    return [Unfit(f"{names.AFTER_KICKOFF} has had its output", (first,))] if had else []


def _storable(output: Any) -> Any:
    """`output`, less those messages of its tasks that have no JSON form.

    An ``after_kickoff`` callback may have made anything else of it.
    """
    for task in output.tasks_output if isinstance(output, CrewOutput) else ():
        task.messages = [message for message in task.messages if _is_storable(message)]
    return output


def _is_storable(value: Any) -> bool:
    try:
        codec.encode(value)
    except UnstorableValueError:
        return False
    return True
