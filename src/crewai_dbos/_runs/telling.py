"""Telling of a run: its events in the database, its spans, and lines in the log of a worker."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from crewai_dbos._dbos_seam import at_work
from crewai_dbos._dbos_seam.context import DBOSContext, open_workflow
from crewai_dbos._journal import executions
from crewai_dbos._journal.listening import Happening
from crewai_dbos._journal.scope import Scope
from crewai_dbos._runs import counting, event_stream, saying, spans
from crewai_dbos._runs.event_stream import EventStream
from crewai_dbos._threads import on_a_thread

logger = logging.getLogger("crewai_dbos")


@contextmanager
def of_joined(definition: Any, scope: Scope, *, is_own: bool) -> Iterator[None]:
    """The block is the work of `definition` in `scope`.

    Args:
        is_own: Whether the workflow was opened for it.
    """
    journal = scope.journal
    spans.listen(journal)
    counting.listen(journal)
    kind = scope.path.rpartition("/")[2].partition(":")[0]
    if is_own:
        saying.begins(kind, definition.name, journal)
    stream = _heard(definition, scope, kind, is_own=is_own) if definition.events else None
    try:
        with journal.listeners.told(Happening(scope.path, kind)):
            yield
    finally:
        if stream is not None and not is_own:
            stream.flush()


def _heard(definition: Any, scope: Scope, kind: str, *, is_own: bool) -> EventStream | None:
    """The events of a run that are written from now on; None if that can't be."""
    try:
        stream = event_stream.of_journal(scope.journal)
        if is_own:
            stream.begins(definition=definition.name, kind=kind)
        path = "" if is_own else scope.path
        stream.hear(scope.journal, path, tokens=definition.events == "tokens")
    except Exception as error:  # of the database: the run does not need them
        logger.warning("Run %s leaves no events (%s).", scope.run_id, type(error).__name__)
        return None
    return stream


@contextmanager
def of_run(definition: Any, noun: str) -> Iterator[None]:
    """The block is all of a run that has a workflow of its own."""
    context = open_workflow()
    run_id = context.workflow_id
    at_work.begin(run_id)
    counted = counting.of_run(noun, definition.name, run_id)
    said = saying.of_run(noun, definition.name, context)
    with said, counted, spans.of_run(noun, definition.name, run_id, spans.begun_in(run_id)):
        try:
            yield
        except BaseException as error:
            _ended(definition, noun, context, error)
            raise
        _ended(definition, noun, context, None)


@asynccontextmanager
async def of_async_run(definition: Any, noun: str) -> AsyncIterator[None]:
    """As `of_run`, for async code; nothing in it holds up the loop."""
    context = open_workflow()
    run_id = context.workflow_id
    at_work.begin(run_id)
    began_in = await on_a_thread(lambda: spans.begun_in(run_id)) if spans.tracer() else None
    counted = counting.of_run(noun, definition.name, run_id)
    said = saying.of_run(noun, definition.name, context)
    with said, counted, spans.of_run(noun, definition.name, run_id, began_in):
        try:
            yield
        except GeneratorExit:
            raise
        except BaseException as error:
            ended_by = error
            await _off_the_loop(definition, lambda: _ended(definition, noun, context, ended_by))
            raise
        await _off_the_loop(definition, lambda: _ended(definition, noun, context, None))


async def _off_the_loop(definition: Any, function: Callable[[], None]) -> None:
    if definition.events:
        await on_a_thread(function)


def _ended(definition: Any, noun: str, context: DBOSContext, error: BaseException | None) -> None:
    """The run has ended, or is left; nobody has heard of it.

    Args:
        definition: What it is a run of.
        noun: What kind of definition that is.
        context: The workflow that was opened for it.
        error: What its body raises.
    """
    if not definition.events:
        return
    try:
        journal = executions.journal_of(context)
        begun = event_stream.opened(journal)
        stream = begun or event_stream.of_journal(journal)
        if begun is None:
            stream.begins(definition=definition.name, kind=noun)
        stream.ends(error)
        stream.flush()
    except Exception as error:  # its end is what counts
        told = type(error).__name__
        logger.warning("Run %s: its last events are not kept (%s).", context.workflow_id, told)
