"""How an agent, a crew or a flow joins the workflow that is open, and leaves it again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

from crewai_dbos._dbos_seam.errors import surviving
from crewai_dbos._dbos_seam.threads import on_workflow_thread
from crewai_dbos._journal import notes
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.run_scope import enclosing
from crewai_dbos._journal.scope import Scope, lent_context
from crewai_dbos._signals import ControlSignal
from crewai_dbos._stored import names
from crewai_dbos.errors import CrewaiDbosError, DriftError, JournalCorruptError, SealedError


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
            execution = scope.journal.execution
            notes.stop(scope.run_id, execution.owner_xid, ended_by, scope.journal.writer.redact)
        raise ended_by from None
