"""The body of a run: a workflow that was opened for it, or its part of a user's workflow."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dbos import DBOS

from crewai_dbos import _patches
from crewai_dbos._dbos_seam import current_context, detached, on_the_loop_of_dbos
from crewai_dbos._errors import DriftError, RunSuspended, SealedError, UnstorableValueError
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.scope import Scope
from crewai_dbos._runs import failure, results
from crewai_dbos._runs.definition import Registry
from crewai_dbos._stored import order
from crewai_dbos._threads import on_a_loop_of_its_own, on_a_thread

logger = logging.getLogger("crewai_dbos")

DEFINITION_GRACE = 1.0
"""Seconds that a recovered run waits for its definition before it says that it is missing."""

D = TypeVar("D", bound=Any)
O = TypeVar("O")  # noqa: E741
T = TypeVar("T")


@dataclass(frozen=True)
class Kind(Generic[D, O]):
    """What there can be a run of.

    Attributes:
        registry: Where its definitions are.
        load: From a stored order to live objects.
        perform: Carries out an order in the open workflow; says whether that was opened for it.
        aperform: As `perform`, for async code.
    """

    registry: Registry[D]
    load: Callable[[Mapping[str, Any], D], O]
    perform: Callable[[D, O, bool], Any]
    aperform: Callable[[D, O, bool], Coroutine[Any, Any, Any]]


def run(kind: Kind[D, O], stored: Mapping[str, Any]) -> Any:
    """Carry out a stored order inside the workflow opened for it."""
    definition = _definition_of(kind, stored)
    with _closing():
        return results.stored(kind.perform(definition, _loaded(kind, stored, definition), True))


async def arun(kind: Kind[D, O], stored: Mapping[str, Any]) -> Any:
    """As `run`, on an event loop of its own; see `off_the_loop_of_dbos`."""
    definition = await on_a_thread(lambda: _definition_of(kind, stored))

    async def work() -> Any:
        with _closing():
            order = _loaded(kind, stored, definition)
            return results.stored(await kind.aperform(definition, order, True))

    return await on_a_loop_of_its_own(work)


@contextmanager
def part(definition: Any, what: str, order: str | None) -> Iterator[Scope]:
    """The part of the open workflow in which an order is carried out.

    Args:
        definition: What it is an order of.
        what: Its name.
        order: A digest of the order; None if the workflow was opened for it.
    """
    _patches.apply(_patches.RUN)
    outer = run_scope.enclosing()
    assert outer is not None
    outer.journal.keep_back(definition.secrets, definition.redact)
    durable = run_scope.recording(None)
    with run_scope.surfacing(outer), run_scope.joined(what, order) as scope, durable:
        yield scope


def built(build: Callable[[], T], what: str, scope: Scope) -> T:
    """What `build` returns. A run that has begun is stopped if it can't be built now.

    Args:
        build: Builds the user's object anew.
        what: What that is, in words.
        scope: The place of its work.
    """
    try:
        return build()
    except Exception as error:
        journal = scope.journal
        if journal.record.names_under(scope.path):
            journal.fail(
                DriftError(
                    f"Run {journal.run_id}: the {what} could not be built "
                    f"({type(error).__name__}: {error}). Put that right and "
                    f"DBOS.resume_workflow({journal.run_id!r})."
                )
            )
        raise


@contextmanager
def ending(scope: Scope) -> Iterator[None]:
    """The block is the work of `scope`, whose caller may go on if it fails or gives it up.

    What a clock decided can't be found out by replaying it, so how the work ended is recorded.

    Raises:
        Exception: The recorded copy of the error that the block ends with, or ended with before.
    """
    started = time.time()
    scope.journal.replay_failed_part(scope)
    try:
        yield
    except asyncio.CancelledError:
        scope.journal.give_up(scope.path, time.time() - started)
        raise
    except Exception as error:
        scope.journal.fail_part(scope, error)


async def off_the_loop_of_dbos(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run async `work` of crewAI here, or on a loop of its own if this is DBOS's.

    crewAI's async methods block the loop they run on in many places (memory, MCP discovery,
    planning). On DBOS's loop that would be every other run's loop, and the one that this run waits
    for.
    """
    if on_the_loop_of_dbos():
        return await on_a_loop_of_its_own(work)
    return await work()


def _loaded(kind: Kind[D, O], stored: Mapping[str, Any], definition: D) -> O:
    context = current_context()
    assert context is not None
    then = f"Then DBOS.resume_workflow({context.workflow_id!r})."
    try:
        return kind.load(order.opened(stored), definition)
    except SealedError as error:
        stopped: Exception = SealedError(
            f"What the run is asked to do can't be read: {error}. {then}"
        )
        cause: Exception = error
    except (UnstorableValueError, TypeError, ValueError, LookupError) as error:
        ours = isinstance(error, UnstorableValueError)
        told = str(error) if ours else f"The order of the run can't be read: {error!r}"
        stopped, cause = DriftError(f"{told.rstrip('.')}. {then}"), error
    run_scope.stop(context.workflow_id, stopped)
    raise stopped from cause


def _definition_of(kind: Kind[D, O], stored: Mapping[str, Any]) -> D:
    name = stored[kind.registry.noun]
    definition = kind.registry.find(name, timeout=DEFINITION_GRACE)
    if definition is None:
        _suspend(kind.registry, name)
    assert definition is not None
    context = current_context()
    assert context is not None
    run_scope.clear_note(context.workflow_id)
    return definition


def _suspend(registry: Registry[Any], name: str) -> None:
    """Leave the run PENDING until it is defined, and say so where it will be looked for."""
    context = current_context()
    assert context is not None
    run_id = context.workflow_id
    known = ", ".join(map(repr, registry.names())) or "none"
    why = (
        f"no {registry.cls} named {name!r} is defined in this process (defined: {known}). Import "
        f"the module that builds it before DBOS.launch(). The run goes on at the next launch, as "
        f"soon as the {registry.noun} is built, or with DBOS.resume_workflow({run_id!r})."
    )
    logger.error("Run %s waits: %s", run_id, why)
    run_scope.note(run_id, {"waiting": why})
    registry.when_added(name, lambda: _resume(run_id))
    raise RunSuspended(why)


def _resume(run_id: str) -> None:
    detached(DBOS.resume_workflow, run_id)


@contextmanager
def _closing() -> Iterator[None]:
    """The block is the whole of a run that has a workflow of its own."""
    context = current_context()
    assert context is not None
    try:
        yield
        run_scope.note_savings(context)
    except Exception as error:
        secrets = run_scope.secrets_of(context)
        hide = lambda recorded: run_scope.redacted_error(recorded, context)  # noqa: E731
        raise failure.carrying(error, secrets, hide) from error
    finally:
        run_scope.close(context)
