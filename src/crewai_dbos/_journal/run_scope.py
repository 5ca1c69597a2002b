"""Which run the running code is in."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from typing import Any, TypeVar

from crewai_dbos._dbos_seam.context import DBOSContext, current_context
from crewai_dbos._dbos_seam.instance import is_launched
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.executions import journal_of
from crewai_dbos._journal.open_calls import open_call
from crewai_dbos._journal.scope import Scope, last_entered, lent_context
from crewai_dbos._leases import RunVar, begin, is_lost, methods_at_work
from crewai_dbos._setting import setting
from crewai_dbos.errors import (
    LostContextError,
)

logger = logging.getLogger("crewai_dbos")

T = TypeVar("T")

_warned: set[str] = set()

_interceptor: RunVar[Any] = RunVar("crewai_dbos_interceptor", default=None)


def interceptor() -> Any:
    """What carries out the calls of ordinary objects here; None if nothing does.

    It is an `_flows.interception.Interceptor`.
    """
    return _interceptor.get()


def intercepting(interceptor: Any) -> AbstractContextManager[Any]:
    """In the block the calls of ordinary objects go through `interceptor`, or not (None)."""
    return setting(_interceptor, interceptor)


def in_workflow() -> bool:
    """Whether work that starts here would join an open DBOS workflow.

    Raises:
        LostContextError: This thread may work for any run.
    """
    return _open_workflow() is not None


def _open_workflow() -> DBOSContext | None:
    context = _found_workflow()
    if context is None:
        check_found()
    return context


def _found_workflow() -> DBOSContext | None:
    if open_call() is not None or not is_launched():
        return None
    context = current_context()
    return None if context is None or not context.is_workflow() or _is_nobodys() else context


def _is_nobodys() -> bool:
    """Whether this thread or task has outlived what it was started for."""
    if not is_lost():
        return False
    scope, context = last_entered(), current_context()
    if context is None or not context.is_within_workflow():
        return True
    return scope is not None and scope.run_id == context.workflow_id


def check_found() -> None:
    """What is called here belongs to no run, and that is known.

    Raises:
        LostContextError: It may be that of a method at work: this thread has outlived another one.
    """
    if methods_at_work() and _is_nobodys():
        raise LostContextError(
            f"A call was made on {threading.current_thread().name!r}, which worked for a method of "
            "a durable flow that has ended. Another is at work now, whose call this may be: it "
            "would not be recorded. If the thread works for several, start it where its module is "
            "imported, and hand it each job through a queue.Queue that its main function reads; or "
            "leave the jobs to a ThreadPoolExecutor; or run each with the "
            "contextvars.copy_context().run of whoever hands it over. If it is the method's own, "
            "wait for it in the method."
        )


def context_of_call() -> Context | None:
    """The context in which a call that begins here has to be made; None for the one that is here.

    A thread that works for another makes it in the other's, and one that works for nobody in one
    in which that stays so.

    Raises:
        LostContextError: This thread may work for any run.
    """
    context = lent_context()
    if context is None and is_lost() and _is_nobodys():
        check_found()
        context = copy_context()
        context.run(begin, None)
    return context


def in_step() -> bool:
    """Whether this is the body of a DBOS step, in which nothing can be recorded on its own."""
    if open_call() is not None:
        return True
    context = current_context()
    return context is not None and context.is_step()


def warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        logger.warning("%s", message)


def enclosing() -> Scope | None:
    """The scope that a call made here belongs to; None if it is not recorded here.

    Raises:
        LostContextError: This thread may work for any run.
    """
    return _scope_in(_open_workflow())


def _scope_in(context: DBOSContext | None) -> Scope | None:
    if context is None:
        return None
    scope = last_entered()
    # A child workflow that a tool of this run started has a journal of its own.
    if scope is not None and scope.run_id == context.workflow_id:
        return scope
    return Scope(journal_of(context), "")


def around() -> Scope | None:
    """As `enclosing`, and inside a recorded call the scope of that call. None outside any run."""
    scope, context = last_entered(), current_context()
    if scope is None or context is None or context.workflow_id != scope.run_id:
        return None
    return None if is_lost() else scope


def for_call(bound: Scope | None, what: str) -> Scope | None:
    """The scope that records a call of an object that belongs to the run of `bound`.

    Raises:
        ControlSignal: The object belongs to a run that this thread can't see.
        LostContextError: It belongs to none, and this thread may work for any.
    """
    if bound is None:
        return enclosing()
    scope = _scope_in(_found_workflow())
    if scope is None and not in_step():
        bound.raise_if_over()
        bound.fail(
            LostContextError(
                f"Run {bound.run_id}: the {what} was made on a thread without the run's "
                "context, so it would not be recorded. Start threads with "
                "contextvars.copy_context().run."
            )
        )
    return scope


def record(call: Callable[[], Call], function: Callable[[], T]) -> T:
    """The result of a call made here: recorded where a run is, an ordinary one elsewhere.

    Args:
        call: Returns what is called.
        function: Makes the call.
    """
    scope = enclosing()
    return function() if scope is None else scope.run(call(), function)


async def arecord(call: Callable[[], Call], function: Callable[[], Awaitable[T]]) -> T:
    """As `record`, for async code."""
    scope = enclosing()
    return await (function() if scope is None else scope.arun(call(), function))
