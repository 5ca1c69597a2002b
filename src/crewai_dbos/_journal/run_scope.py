"""Which run the running code is in, and how work joins it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context, copy_context
from typing import Any, TypeVar

from crewai_dbos._dbos_seam import (
    DBOSContext,
    current_context,
    is_launched,
    on_workflow_thread,
    surviving,
)
from crewai_dbos._journal import notes
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.journal import Journal
from crewai_dbos._journal.open_calls import open_call
from crewai_dbos._journal.scope import Scope, last_entered, lent_context
from crewai_dbos._leases import RunVar, begin, is_lost, methods_at_work
from crewai_dbos._secrets import known
from crewai_dbos._setting import setting
from crewai_dbos._signals import ControlSignal
from crewai_dbos._stored import names, redaction
from crewai_dbos.errors import (
    CrewaiDbosError,
    DriftError,
    JournalCorruptError,
    LostContextError,
    SealedError,
)

logger = logging.getLogger("crewai_dbos")

T = TypeVar("T")

_warned: set[str] = set()

_recorder: RunVar[Any] = RunVar("crewai_dbos_recorder", default=None)


def recorder() -> Any:
    """What records the calls of ordinary objects here: see `_flows.plain`. None if nothing does."""
    return _recorder.get()


def recording(recorder: Any) -> AbstractContextManager[Any]:
    """In the block the calls of ordinary objects are recorded by `recorder`, or not (None)."""
    return setting(_recorder, recorder)


_JOURNAL = "_crewai_dbos_journal"
_JOURNAL_LOCK = "_crewai_dbos_journal_lock"


def journal_of(context: DBOSContext) -> Journal:
    """The journal of the workflow execution that `context` is the position in."""
    # Threads that the workflow started may all be the first one here.
    lock = context.__dict__.setdefault(_JOURNAL_LOCK, threading.Lock())
    with lock:
        journal: Journal | None = context.__dict__.get(_JOURNAL)
        if journal is None or journal.run_id != context.workflow_id:
            journal = Journal(context)
            context.__dict__[_JOURNAL] = journal
        return journal


def secrets_of(context: DBOSContext) -> set[str]:
    """Texts that must not be stored when the workflow that was opened at `context` fails."""
    journal: Journal | None = context.__dict__.get(_JOURNAL)
    return {*known.named(), *(journal.secrets if journal is not None else ())}


def redacted(data: Any, context: DBOSContext) -> Any:
    """`data`, plain JSON of the workflow that was opened at `context`, as it may be stored."""
    journal: Journal | None = context.__dict__.get(_JOURNAL)
    for redact in journal.writer.redact if journal is not None else ():
        data = redaction.redacted(data, redact)
    return data


def redacted_error(error: dict[str, Any], context: DBOSContext) -> dict[str, Any]:
    """The same for what `encode_error` has made of the error that the workflow ends with."""
    journal: Journal | None = context.__dict__.get(_JOURNAL)
    for redact in journal.writer.redact if journal is not None else ():
        error = redaction.redacted_error(error, redact)
    return error


def close(context: DBOSContext) -> None:
    """The workflow that was opened at `context` is over; a thread left behind records no more."""
    journal: Journal | None = context.__dict__.get(_JOURNAL)
    if journal is not None:
        journal.close()


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


def warn_if_in_step(what: str) -> None:
    """Say that a run inside somebody's DBOS step is recorded with that step or not at all."""
    if is_launched() and in_step():
        warn_once(
            f"{what} runs inside a DBOS step, so its calls are not recorded one by one: after a "
            "crash the whole step is made again. Call it from the workflow instead."
        )


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


@contextmanager
def joined(what: str, work_order: str | None = None) -> Iterator[Scope]:
    """Work called `what` joins the workflow that is open here.

    Whatever ended the run is raised when the block is left, even if something in between
    swallowed it.

    Args:
        what: Its name.
        work_order: A digest of what it does, where others of its name may be started beside it.
    """
    outer = enclosing()
    assert outer is not None
    journal, record = outer.journal, outer.journal.record
    if work_order is None:
        scope = outer.child(what)
    else:
        scope = Scope(journal, _name_of_joined(outer, what, work_order))
    record.enter(scope.path, work_order)
    try:
        with scope.entered():
            if work_order is not None:
                request = {"order": work_order}
                scope.run(Call(names.WORK_ORDER, kind="order", request=request), lambda: None)
            yield scope
        scope.check_complete()
    except Exception:
        scope.raise_if_over()
        raise
    finally:
        record.leave(scope.path)
        if scope.ended_by is None:
            record.move_past(scope.path)
    scope.raise_if_over()


def _name_of_joined(outer: Scope, what: str, work_order: str) -> str:
    place = outer.place
    in_sequence = on_workflow_thread() if place.runs_on is None else place.is_alone_here()
    try:
        return outer.journal.record.joined.next_name(
            outer.path, what, work_order, in_sequence=in_sequence
        )
    except CrewaiDbosError as error:
        outer.fail(error)


@contextmanager
def sparing_worker() -> Iterator[None]:
    """A thread that works for several gets the error and not the signal, which might end it."""
    with surviving() if lent_context() is not None else contextlib.nullcontext():
        yield


@contextmanager
def unwrapping_signals(scope: Scope) -> Iterator[None]:
    """Where user code called us from its own workflow, it gets the error and not the signal.

    A run stopped by drift or an unreadable entry is cancelled, with the reason in its attributes:
    once that is put right, it can be resumed.
    """
    if scope.path:
        with sparing_worker():
            yield
        return
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit, asyncio.CancelledError):
        raise
    except BaseException as error:
        # An asyncio.TaskGroup puts the signal into a group.
        ended_by = error.error if isinstance(error, ControlSignal) else scope.ended_by
        if ended_by is None:
            raise
        if isinstance(ended_by, (DriftError, JournalCorruptError, SealedError)):
            notes.stop(scope.run_id, ended_by, scope.journal.writer.redact)
        raise ended_by from None


def note_savings(context: DBOSContext) -> None:
    """Put the tokens that the replay of a run did not spend again where its status is looked up."""
    journal: Journal | None = context.__dict__.get(_JOURNAL)
    if journal is not None and journal.replay.tokens_saved:
        notes.add(journal.run_id, {"tokens_saved": journal.replay.tokens_saved})
