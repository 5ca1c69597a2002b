"""The journal of a workflow's execution, kept with DBOS's context of it."""

from __future__ import annotations

import logging
import threading
from typing import Any

from dbos import DBOS

from crewai_dbos._dbos_seam.context import DBOSContext, detached
from crewai_dbos._journal import notes
from crewai_dbos._journal.journal import Journal
from crewai_dbos._secrets import known
from crewai_dbos._stored import redaction
from crewai_dbos._stored.redaction import Redact

logger = logging.getLogger("crewai_dbos")

_JOURNAL = "_crewai_dbos_journal"
_JOURNAL_LOCK = "_crewai_dbos_journal_lock"


def journal_of(context: DBOSContext) -> Journal:
    """The journal of the workflow execution that `context` is the position in."""
    # Threads that the workflow started may all be the first one here.
    lock = context.__dict__.setdefault(_JOURNAL_LOCK, threading.Lock())
    with lock:
        journal = opened(context)
        if journal is None or journal.run_id != context.workflow_id:
            journal = Journal(context)
            context.__dict__[_JOURNAL] = journal
        return journal


def secrets_of(context: DBOSContext) -> set[str]:
    """Texts that must not be stored when the workflow that was opened at `context` fails."""
    journal = opened(context)
    return {*known.named(), *(journal.secrets if journal is not None else ())}


def redacted(data: Any, context: DBOSContext) -> Any:
    """`data`, plain JSON of the workflow that was opened at `context`, as it may be stored."""
    for redact in _redact_of(context):
        data = redaction.redacted(data, redact)
    return data


def redacted_error(error: dict[str, Any], context: DBOSContext) -> dict[str, Any]:
    """The same for what `encode_error` has made of the error that the workflow ends with."""
    for redact in _redact_of(context):
        error = redaction.redacted_error(error, redact)
    return error


def close(context: DBOSContext) -> None:
    """The workflow that was opened at `context` is over; a thread left behind records no more."""
    journal = opened(context)
    if journal is not None:
        journal.close()


def note_savings(context: DBOSContext) -> None:
    """Put the tokens that the replay of a run did not spend again where its status is looked up."""
    journal = opened(context)
    if journal is not None and journal.replay.tokens_saved:
        notes.add(journal.run_id, {"tokens_saved": journal.replay.tokens_saved})


def say_that_it_goes_on(journal: Journal) -> None:
    """Tell the log how much of a run is done, if it has begun before."""
    calls = journal.record.count_of_calls()
    if not calls:
        return
    status = detached(DBOS.get_workflow_status, journal.run_id)
    # One that a person has woken, resumed or forked goes on as it should.
    died = status is not None and (status.recovery_attempts or 0) > 1
    told = f"{calls} call{'s' if calls > 1 else ''} from the record"
    level = logging.WARNING if died else logging.INFO
    logger.log(level, "Run %s goes on: %s.", journal.run_id, told)


def opened(context: DBOSContext) -> Journal | None:
    """The journal of the workflow that was opened at `context`, if anything has asked for it."""
    journal: Journal | None = context.__dict__.get(_JOURNAL)
    return journal


def _redact_of(context: DBOSContext) -> list[Redact]:
    journal = opened(context)
    return [] if journal is None else journal.writer.redact
