"""What a worker's log says of its runs: a line when one begins, and one when it ends or fails."""

from __future__ import annotations

import logging
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from crewai_dbos import _tracebacks
from crewai_dbos._dbos_seam.context import DBOSContext
from crewai_dbos._events.event import PLACES
from crewai_dbos._fleet import membership
from crewai_dbos._journal import executions
from crewai_dbos._journal.journal import Journal
from crewai_dbos._journal.listening import Happening, Listener
from crewai_dbos._runs.failure import FailedRun
from crewai_dbos._secrets import known
from crewai_dbos._stored.usage import spent_in

logger = logging.getLogger("crewai_dbos")

LONGEST = 300
"""Characters that are told of an error."""

_HEARD = "said"


def begins(noun: str, name: str, journal: Journal) -> None:
    """The own workflow of a run is carried out here; one that goes on has a line of its own."""
    if membership.member() is None:
        return
    journal.kept[_HEARD] = heard = _Heard()
    journal.listeners.add(heard)
    if not journal.record.count_of_calls():
        logger.info("Run %s (%s %s) begins.", journal.run_id, noun, name)


@contextmanager
def _saying(noun: str, name: str, context: DBOSContext) -> Iterator[None]:
    run_id, since = context.workflow_id, time.monotonic()
    try:
        yield
    except FailedRun as error:
        journal = executions.opened(context)
        heard = None if journal is None else journal.kept.get(_HEARD)
        at = "" if heard is None else heard.place_of(error)
        logger.error("Run %s (%s %s) failed%s: %s", run_id, noun, name, at, _in_a_line(error))
        raise
    took = f"{time.monotonic() - since:.1f} s"
    journal = executions.opened(context)
    logger.info("Run %s (%s %s) is done: %s%s.", run_id, noun, name, took, _tokens(journal))


def of_run(noun: str, name: str, context: DBOSContext) -> AbstractContextManager[None]:
    """The block is an execution of a run in its own workflow; only a worker says how it ends.

    Args:
        noun: Whether it is one of an agent, a crew or a flow.
        name: Of its definition.
        context: The workflow.
    """
    return nullcontext() if membership.member() is None else _saying(noun, name, context)


class _Heard(Listener):
    """What an execution has spent, and the call that has failed last. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.tokens = 0
        self._failed: tuple[str, tuple[str, str]] | None = None

    @contextmanager
    def hearing(self, happening: Happening) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if happening.kind not in PLACES:
                self._fails(happening.name, _told(error))
            raise
        finally:
            if happening.payload is not None and not happening.replayed:
                spent = sum(each.tokens.total for each in spent_in(happening.payload))
                with self._lock:
                    self.tokens += spent

    def place_of(self, error: BaseException) -> str:
        """Where the call is that `error`, or what has led to it, comes from; "" if unknown."""
        last: BaseException | None = error
        while last is not None:
            # A copy of what was recorded may have come out of the run.
            if self._failed is not None and self._failed[1] == _told(last):
                return f" at {self._failed[0]}"
            last = _tracebacks.cause_of(last)
        return ""

    def _fails(self, name: str, told: tuple[str, str]) -> None:
        with self._lock:
            before = self._failed
            if before is None or before[1] != told or not before[0].startswith(f"{name}/"):
                self._failed = name, told


def _tokens(journal: Journal | None) -> str:
    heard = None if journal is None else journal.kept.get(_HEARD)
    if journal is None or heard is None:
        return ""
    saved = journal.replay.tokens_saved
    more = f", and {saved:,} from the record" if saved else ""
    return f", {heard.tokens:,} tokens{more}"


def _told(error: BaseException) -> tuple[str, str]:
    try:
        return type(error).__name__, str(error)
    except Exception:
        return type(error).__name__, ""


def _in_a_line(error: FailedRun) -> str:
    """What is stored of the error: its class, and its text without secrets."""
    return textwrap.shorten(known.hide(f"{type(error).__name__}: {error}"), LONGEST)
