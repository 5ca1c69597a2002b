"""Which run the running code is in, and how work joins it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from crewai_dbos._dbos_seam import DBOSContext, current_context, is_launched
from crewai_dbos._errors import LostContextError
from crewai_dbos._journal import Journal
from crewai_dbos._scope import Scope, current_scope, open_call

logger = logging.getLogger("crewai_dbos")

_warned: set[str] = set()

_JOURNAL = "_crewai_dbos_journal"


def journal_of(context: DBOSContext) -> Journal:
    """The journal of the workflow execution that `context` is the position in."""
    journal: Journal | None = context.__dict__.get(_JOURNAL)
    if journal is None or journal.run_id != context.workflow_id:
        journal = Journal(context)
        context.__dict__[_JOURNAL] = journal
    return journal


def close(context: DBOSContext) -> None:
    """The workflow that was opened at `context` is over; a thread left behind records no more."""
    journal: Journal | None = context.__dict__.get(_JOURNAL)
    if journal is not None:
        journal.close()


def in_workflow() -> bool:
    """Whether work that starts here would join an open DBOS workflow."""
    if not is_launched() or open_call() is not None:
        return False
    context = current_context()
    return current_scope() is not None or (context is not None and context.is_workflow())


def in_step() -> bool:
    """Whether this is the body of a DBOS step, in which nothing can be recorded on its own."""
    if open_call() is not None:
        return True
    context = current_context()
    return context is not None and context.is_within_workflow() and context.is_step()


def warn_if_in_step(what: str) -> None:
    """Say that a run inside somebody's DBOS step is recorded with that step or not at all."""
    if is_launched() and in_step() and what not in _warned:
        _warned.add(what)
        logger.warning(
            "%s runs inside a DBOS step, so its calls are not recorded one by one: after a crash "
            "the whole step is made again. Call it from the workflow instead.",
            what,
        )


def enclosing() -> Scope | None:
    """The scope that a call made here belongs to; None if it is not recorded here."""
    if not in_workflow():
        return None
    scope = current_scope()
    if scope is not None:
        return scope
    context = current_context()
    assert context is not None
    return Scope(journal_of(context), "")


def for_call(bound: Scope | None, what: str) -> Scope | None:
    """The scope that records a call of an object that belongs to the run of `bound`.

    Raises:
        ControlSignal: The object belongs to a run that this thread can't see.
    """
    scope = enclosing()
    if scope is None and bound is not None and open_call() is None:
        bound.journal.fail(
            LostContextError(
                f"Run {bound.journal.run_id}: the {what} was made on a thread without the run's "
                "context, so it would not be recorded. Start threads with "
                "contextvars.copy_context().run."
            )
        )
    return scope


@contextmanager
def joined(what: str) -> Iterator[Scope]:
    """A branch `what` of the workflow that is open here.

    Whatever ended the run is raised when the block is left, even if something in between
    swallowed it.
    """
    outer = enclosing()
    assert outer is not None
    scope = outer.child(what)
    journal = scope.journal
    try:
        with scope.entered():
            yield scope
    finally:
        if journal.ended_by is None:
            journal.leave(scope.path)
    journal.raise_if_over()
