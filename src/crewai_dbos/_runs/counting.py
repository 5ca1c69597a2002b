"""Counting what the runs of this process do, for those who watch it. Nothing is, until one does."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from crewai_dbos._dbos_seam.errors import DBOSWorkflowCancelledError
from crewai_dbos._events.event import PLACES
from crewai_dbos._journal import notes
from crewai_dbos._journal.journal import Journal
from crewai_dbos._journal.listening import Happening, Listener
from crewai_dbos._secrets import known
from crewai_dbos._signals import ControlSignal, RunCancelled, RunParked
from crewai_dbos._stored.usage import spent_in

MOST_MODELS = 50
"""So many models are told apart; what names them may come from the user's users."""

OTHER = "other"

OUTCOMES = ("done", "failed", "cancelled", "parked", "stopped", "left")
"""How an execution comes to its end in this process."""

Key = tuple[str, ...]


@dataclass(frozen=True)
class AtWork:
    """An execution of a run that goes on in this process.

    Attributes:
        run_id: The run's workflow id.
        noun, name: Of its definition.
        since: When it began, in seconds since 1970.
    """

    run_id: str
    noun: str
    name: str
    since: float


class Counts(Listener):
    """What the runs of this process have done since it is counted. Threads share it.

    By kind and outcome: the calls that were recorded. By kind: those that were answered from the
    record. By model and what they were: the tokens. By kind, name of the definition and outcome:
    the executions that have come to an end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[Key] = Counter()
        self._replayed: Counter[Key] = Counter()
        self._tokens: Counter[Key] = Counter()
        self._executions: Counter[Key] = Counter()
        self._models: set[str] = set()
        self._at_work: dict[int, AtWork] = {}

    # What is read ------------------------------------------------------------------

    def calls(self) -> dict[Key, int]:
        return self._copy(self._calls)

    def replayed(self) -> dict[Key, int]:
        return self._copy(self._replayed)

    def tokens(self) -> dict[Key, int]:
        return self._copy(self._tokens)

    def executions(self) -> dict[Key, int]:
        return self._copy(self._executions)

    def at_work(self) -> list[AtWork]:
        """The executions that go on, the oldest first."""
        with self._lock:
            return list(self._at_work.values())

    # What is told ------------------------------------------------------------------

    @contextmanager
    def hearing(self, happening: Happening) -> Iterator[None]:
        try:
            yield
        finally:
            self._count(happening)

    @contextmanager
    def of_run(self, noun: str, name: str, run_id: str) -> Iterator[None]:
        """The block is an execution of a run of the definition `name`."""
        begun = AtWork(run_id, noun, name, time.time())
        with self._lock:
            self._at_work[id(begun)] = begun
        outcome = "left"
        try:
            yield
            outcome = "done"
        except BaseException as error:
            outcome = _outcome(error, run_id)
            raise
        finally:
            with self._lock:
                del self._at_work[id(begun)]
                self._executions[noun, name, outcome] += 1

    def _count(self, happening: Happening) -> None:
        if happening.kind in PLACES:
            return
        payload = happening.payload
        with self._lock:
            if happening.replayed:
                self._replayed[happening.kind,] += 1
            elif payload is not None:
                has_failed = "error" in payload or bool(payload.get("failed"))
                self._calls[happening.kind, "failed" if has_failed else "done"] += 1
                self._count_tokens(payload)

    def _count_tokens(self, payload: Mapping[str, object]) -> None:
        for spent in spent_in(payload):
            model, tokens = self._model(spent.model), spent.tokens
            for what, count in (
                ("input", tokens.prompt),
                ("output", tokens.completion),
                ("cached", tokens.cached),
            ):
                self._tokens[model, what] += count

    def _model(self, name: str | None) -> str:
        if name is None:
            return OTHER
        if name not in self._models and len(self._models) < MOST_MODELS:
            self._models.add(name)
        return known.hide(name) if name in self._models else OTHER

    def _copy(self, counter: Counter[Key]) -> dict[Key, int]:
        with self._lock:
            return dict(counter)


def _outcome(error: BaseException, run_id: str) -> str:
    """How an execution has ended for this process; "left" if its row says what becomes of it."""
    if isinstance(error, ControlSignal) and notes.has_stopped(run_id, error.error):
        return "stopped"
    if isinstance(error, (RunCancelled, DBOSWorkflowCancelledError)):
        return "cancelled"
    if isinstance(error, RunParked):
        return "parked"
    return "failed" if isinstance(error, Exception) else "left"


_counts: Counts | None = None


def count_in(counts: Counts | None) -> None:
    """Count in these from now on, or nothing any more."""
    global _counts
    _counts = counts


def listen(journal: Journal) -> None:
    """What happens in the run is counted from now on, if anything is."""
    if (counts := _counts) is not None:
        journal.listeners.add(counts)


def of_run(noun: str, name: str, run_id: str) -> AbstractContextManager[None]:
    """The block is an execution of a run, in its own workflow.

    Args:
        noun: Whether it is one of an agent, a crew or a flow.
        name: Of its definition.
        run_id: Its id.
    """
    counts = _counts
    return nullcontext() if counts is None else counts.of_run(noun, name, run_id)
