"""The body of a run: a workflow that was opened for it, or its place in a user's workflow."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NoReturn, TypeVar

from crewai_dbos import _command_lines, _patches
from crewai_dbos._crewai_seam.events import scope_kept
from crewai_dbos._dbos_seam import recovering
from crewai_dbos._dbos_seam.context import detached, open_workflow
from crewai_dbos._dbos_seam.errors import DBOSBaseException
from crewai_dbos._dbos_seam.threads import on_the_loop_of_dbos, on_the_own_loop_of_dbos
from crewai_dbos._fleet import membership
from crewai_dbos._journal import executions, joining, notes, run_scope
from crewai_dbos._journal.execution import Execution
from crewai_dbos._journal.latch import Latch
from crewai_dbos._journal.scope import Scope
from crewai_dbos._journal.watching import watcher
from crewai_dbos._objects import mcp
from crewai_dbos._people import policy, spending, waiting
from crewai_dbos._runs import aborted, failure, results, telling
from crewai_dbos._runs.kind import Kind, kind_of
from crewai_dbos._runs.registry import REGISTRIES, Registry
from crewai_dbos._signals import ControlSignal, RunLeft, RunSuspended
from crewai_dbos._stored import budget, modules, names, work_order
from crewai_dbos._stored.budget import Budget
from crewai_dbos._stored.context import restored
from crewai_dbos._threads import WorkEnded, on_a_loop_of_its_own, on_a_thread
from crewai_dbos.errors import DriftError, SealedError, UnstorableValueError

logger = logging.getLogger("crewai_dbos")

DEFINITION_GRACE = 1.0
"""Seconds that a recovered run waits for its definition before it says that it is missing."""

LEAVE = 1.0
"""Seconds that a run which was cancelled has to end, before the thread is left that it works on."""

_NO_NAME = (
    "An agent, crew or flow is defined in the program itself (__main__), which has no module name: "
    "it is a notebook, a python -c, or a file that no import statement can name. Its runs are "
    "recovered by the same program, started in the same way. For any other process put classes and "
    "definitions into a module, and import that."
)

T = TypeVar("T")


def run(noun: str, stored: Mapping[str, Any]) -> Any:
    """Carry out a stored order of an agent, a crew or a flow, in the workflow opened for it."""
    definition, kind = _definition_of(noun, stored)
    with telling.of_run(definition, noun):
        try:
            with _closing():
                order, given = _loaded(kind, stored, definition)
                with given:
                    return results.stored(kind.perform(definition, order, True))
        except Exception:
            raise
        except BaseException as error:
            raise aborted.ended_by(error, open_workflow()) from error


async def arun(noun: str, stored: Mapping[str, Any]) -> Any:
    """As `run`, on an event loop of its own; see `off_the_loop_of_dbos`."""
    try:
        return await _arun(noun, stored)
    except asyncio.CancelledError as error:  # while a thread worked for it, before or after
        raise ControlSignal(aborted.ended_by(error, open_workflow(), outside=True)) from error


async def _arun(noun: str, stored: Mapping[str, Any]) -> Any:
    definition, kind = await on_a_thread(lambda: _definition_of(noun, stored))

    async def work() -> Any:
        with _closing():
            order, given = _loaded(kind, stored, definition)
            with given:
                return results.stored(await kind.aperform(definition, order, True))

    async with telling.of_async_run(definition, noun):
        return await _on_its_loop(work)


async def _on_its_loop(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """The result of the body of a run; it raises what DBOS is to hear of its end."""
    try:
        return await on_a_loop_of_its_own(work, _left_behind_when_over)
    except (Exception, GeneratorExit):
        raise
    except BaseException as error:
        outside = isinstance(error, asyncio.CancelledError)
        by = error.error if isinstance(error, WorkEnded) else error
        context = open_workflow()
        ended = await on_a_thread(lambda: aborted.ended_by(by, context, outside=outside))
        if isinstance(ended, (ControlSignal, RunSuspended, DBOSBaseException)):
            raise ended from (None if ended is error else error)
        # As itself it would end the event loop of DBOS, or be taken there for an error of the run.
        raise ControlSignal(ended) from error


@contextmanager
def _left_behind_when_over(abandon: Callable[[BaseException], None]) -> Iterator[None]:
    """The block waits for the run that was opened here, on an event loop of its own.

    If the run was cancelled, or is another execution's now, and sync code holds up that loop, its
    thread is left behind: it makes no call any more.

    Args:
        abandon: Ends the wait with an error.
    """
    context = open_workflow()
    run_id = context.workflow_id
    execution = Execution(run_id, context.owner_xid, Latch(run_id))

    def leave() -> None:
        timer = threading.Timer(LEAVE, abandon, [RunLeft(run_id)])
        timer.daemon = True
        timer.start()

    with watcher.in_flight(execution) as wait, wait.leaving(leave):
        yield


@contextmanager
def joined(definition: Any, what: str, work_order: str | None) -> Iterator[Scope]:
    """The place in the open workflow in which a work order is carried out.

    Args:
        definition: What it is an order of.
        what: Its name.
        work_order: A digest of the order; None if the workflow was opened for it.
    """
    _patches.apply(_patches.RUN)
    mcp.record_discovery_if_loaded()
    if modules.main_has_no_name():
        run_scope.warn_once(_NO_NAME)
    outer = run_scope.enclosing()
    assert outer is not None
    outer.keep_back(definition.secrets, definition.redact)
    durable = run_scope.intercepting(None)
    is_own = work_order is None
    if is_own:
        waiting.may_park(outer.journal)
        executions.say_that_it_goes_on(outer.journal)
    left = nullcontext() if is_own else aborted.saying_that_it_is_kept(outer.run_id)
    own = budget.for_part(outer.run_id)
    with (
        left,
        scope_kept(),
        joining.unwrapping_signals(outer),
        joining.joined(what, work_order) as scope,
        durable,
        policy.holding(definition.people),
        telling.of_joined(definition, scope, is_own=is_own),
        budget.unset(),
        spending.counted(scope, own or definition.budget),
    ):
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
        if scope.entries():
            scope.fail(
                DriftError(
                    f"Run {scope.run_id}: the {what} could not be built "
                    f"({type(error).__name__}: {error}). Put that right, then: "
                    f"{_command_lines.resume(scope.run_id)}"
                )
            )
        raise


@contextmanager
def ending(scope: Scope) -> Iterator[None]:
    """The block is the work of `scope`, whose caller may go on if it fails or abandons it.

    What a clock decided can't be found out by replaying it, so how the work ended is recorded.

    Raises:
        Exception: The recorded copy of the error that the block ends with, or ended with before.
    """
    started = time.time()
    scope.replay_failure()
    try:
        yield
    except asyncio.CancelledError:
        scope.abandon(time.time() - started)
        raise
    except Exception as error:
        scope.record_failure(error)


async def off_the_loop_of_dbos(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run async `work` of crewAI here, or on a loop of its own if this is DBOS's.

    crewAI's async methods block the loop they run on in many places (memory, MCP discovery,
    planning). On DBOS's loop that would be every other run's loop, and the one that this run waits
    for.
    """
    if not on_the_loop_of_dbos():
        return await work()
    with sparing_the_loop_of_dbos():
        try:
            return await on_a_loop_of_its_own(work)
        except WorkEnded as ended:
            if isinstance(ended.error, asyncio.CancelledError):
                raise asyncio.CancelledError from ended.error
            raise ended.error from None


@contextmanager
def sparing_the_loop_of_dbos() -> Iterator[None]:
    """What would end a loop that DBOS has made, and every other run there, suspends this run.

    On a thread, or the loop of a program, it is raised as it is. The run is kept here and there.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if not on_the_own_loop_of_dbos():
            raise
        raise RunSuspended(f"{type(error).__name__}({error})") from error


def _loaded(
    kind: Kind[Any, Any], stored: Mapping[str, Any], definition: Any
) -> tuple[Any, AbstractContextManager[Any]]:
    """The order, and a block in which the run has what else it was begun with."""
    context = open_workflow()
    then = f"Then: {_command_lines.resume(context.workflow_id)}"
    try:
        opened = work_order.opened(stored)
        values, own = work_order.context_of(opened), work_order.budget_of(opened)
        return kind.load(opened, definition), _begun_with(values, own, context.workflow_id)
    except SealedError as error:
        stopped: Exception = SealedError(
            f"What the run is asked to do can't be read: {error}. {then}"
        )
        cause: Exception = error
    except (UnstorableValueError, TypeError, ValueError, LookupError) as error:
        ours = isinstance(error, UnstorableValueError)
        told = str(error) if ours else f"The order of the run can't be read: {error!r}"
        stopped, cause = DriftError(f"{told.rstrip('.')}. {then}"), error
    notes.stop(context.workflow_id, context.owner_xid, stopped)
    raise stopped from cause


@contextmanager
def _begun_with(values: Mapping[str, Any], own: Budget | None, run_id: str) -> Iterator[None]:
    with restored(values), budget.of_order(own, run_id):
        yield


def _definition_of(noun: str, stored: Mapping[str, Any]) -> tuple[Any, Kind[Any, Any]]:
    _patches.apply(_patches.CALL)
    registry, name = REGISTRIES[noun], stored[noun]
    definition = registry.find(name, timeout=DEFINITION_GRACE)
    if definition is None:
        _suspend(registry, stored)
    context = open_workflow()
    notes.clear(context.workflow_id, stored)
    return definition, kind_of(noun)


def _suspend(registry: Registry[Any], stored: Mapping[str, Any]) -> NoReturn:
    """Leave the run until it is defined: among workers to one that has it, or else PENDING here."""
    context, name = open_workflow(), stored[registry.noun]
    run_id, owner_xid = context.workflow_id, str(context.owner_xid)
    known = ", ".join(map(repr, registry.names())) or "none"
    why = (
        f"no {registry.cls} named {name!r} is defined in this process (defined: {known}). Import "
        f"the module that builds it before DBOS.launch(). The run goes on at the next launch, as "
        f"soon as the {registry.noun} is built, or with DBOS.resume_workflow({run_id!r})."
    )
    if membership.member() is not None and _put_back(run_id, owner_xid, stored):
        raise RunSuspended(why)
    logger.error("Run %s waits: %s", run_id, why)
    notes.add(run_id, {"waiting": why})
    registry.when_added(name, lambda: _go_on(run_id, owner_xid))
    raise RunSuspended(why)


def _put_back(run_id: str, owner_xid: str, stored: Mapping[str, Any]) -> bool:
    """Put a run back on its queue, with what it is a run of: only those who have it take it."""
    label = {names.RUN_ATTRIBUTE: work_order.label(stored)}
    try:
        detached(recovering.go_on, run_id, owner_xid, label)
    except Exception as error:  # it must not end the run
        logger.warning("Run %s can't be put back on its queue (%s).", run_id, error)
        return False
    return True


def _go_on(run_id: str, owner_xid: str) -> None:
    """The definition has come: carry the run out here, if it is still this process's."""
    detached(recovering.go_on, run_id, owner_xid, {})


@contextmanager
def _closing() -> Iterator[None]:
    """The block is the whole of a run that has a workflow of its own."""
    context = open_workflow()
    try:
        yield
        executions.note_savings(context)
    except Exception as error:
        if notes.has_stopped(context.workflow_id, error):
            raise ControlSignal(error) from error  # DBOS has nothing to store, nor to report
        executions.note_savings(context)
        secrets = executions.secrets_of(context)
        hide = lambda recorded: executions.redacted_error(recorded, context)  # noqa: E731
        raise failure.carrying(error, secrets, hide) from error
    finally:
        executions.close(context)
