"""The events of a run, as its journal tells of them.

What is recorded has its events, also where a process was killed before it could write them: they
are made from the record when the run goes on. So nothing is missing, and as an event has an
identity that follows from the name of what it is of, nothing is there twice.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from crewai_dbos._dbos_seam.errors import DBOSWorkflowCancelledError
from crewai_dbos._dbos_seam.instance import is_shut_down
from crewai_dbos._events import event as events
from crewai_dbos._events.event import Fact, Key
from crewai_dbos._events.writing import Writer, launched_writer, now_ms
from crewai_dbos._journal.entry import Entry
from crewai_dbos._journal.journal import Journal
from crewai_dbos._journal.listening import Happening, Listener
from crewai_dbos._runs.failure import FailedRun
from crewai_dbos._runs.recorded_events import FromRecord, above, outcome, payload_of
from crewai_dbos._secrets import known
from crewai_dbos._signals import ControlSignal, RunCancelled, RunLeft, RunParked, RunSuspended
from crewai_dbos._stored import names, redaction, sealing
from crewai_dbos._threads import in_event_loop

logger = logging.getLogger("crewai_dbos")

PIECE = 0.1
"""Seconds for which the pieces of an answer are gathered into one event."""

PIECES = 1_000_000
"""More than the events of one answer: what the number of an attempt is multiplied with."""

_ANSWERED = events.OF_KIND["llm"][1]


@dataclass
class _Answer:
    """An answer that an LLM streams.

    Attributes:
        attempt: Which time it is asked for.
        pieces: What has come and is not told yet.
        told: How many events have told of it.
        since: When the first of the pieces came.
    """

    attempt: int
    pieces: list[str] = field(default_factory=list)
    told: int = 0
    since: float = 0.0


class EventStream(Listener):
    """The events of one execution of a run. Threads share it.

    Args:
        run_id: The run.
        writer: Writes them.
    """

    def __init__(self, run_id: str, writer: Writer) -> None:
        store = writer.store
        self._run_id = run_id
        self._writer = writer
        self._known = store.database.patiently(lambda: store.known(run_id))
        self._attempts: dict[str, int] = {}
        for key in self._known:
            if key.type == events.TOKENS:
                before = self._attempts.get(key.path, 0)
                self._attempts[key.path] = max(before, key.part // PIECES)
        self._lock = threading.Lock()
        self._heard: dict[str, bool] = {}
        self._answers: dict[str, _Answer] = {}
        self._made: set[str] = set()
        self._journal: Journal | None = None

    # The run itself --------------------------------------------------------------

    def begins(self, **facts: Any) -> None:
        """This execution of the run has begun."""
        first = Key(events.RUN_STARTED, "")
        if first not in self._known:
            self._add(first, facts)
        else:
            self._add(self._next(events.RUN_RESUMED), facts)

    def ends(self, error: BaseException | None) -> None:
        """This execution of the run has ended, with `error` or with a result."""
        if error is None:
            self._end_run({"status": "done"})
        elif isinstance(error, ControlSignal):
            store = self._writer.store
            is_kept = store.database.patiently(lambda: store.is_alive(self._run_id))
            type_ = events.RUN_SUSPENDED if is_kept else events.RUN_STOPPED
            self._add(self._next(type_), {"error": type(error.error).__name__})
        elif isinstance(error, Exception):
            raised = error.original if isinstance(error, FailedRun) else error
            self._end_run({"status": "failed", "error": type(raised).__name__})
        elif isinstance(error, RunParked):
            self._add(self._next(events.RUN_PARKED), {})
        elif isinstance(error, (RunCancelled, DBOSWorkflowCancelledError)):
            self._add(self._next(events.RUN_CANCELLED), {})
        elif isinstance(error, RunLeft) and not is_shut_down():
            pass  # another execution has the run, and tells of it
        elif isinstance(error, (RunSuspended, KeyboardInterrupt, SystemExit)):
            self._add(self._next(events.RUN_SUSPENDED), {})

    def flush(self) -> None:
        """Have all of it written before anybody hears that the run, or work in it, has ended."""
        self._writer.flush(wait=not in_event_loop())

    # What happens in it ----------------------------------------------------------

    def hear(self, journal: Journal, path: str, *, tokens: bool) -> None:
        """Events are left of everything under `path` ("" is the run itself).

        Args:
            journal: Of the run.
            path: Where.
            tokens: Whether the texts of answers are among them, as they come.
        """
        self._journal = journal
        journal.listeners.add(self)
        with self._lock:
            before = self._tokens_of(path)
            self._heard = {**self._heard, path: tokens}  # other threads look into it
        if before is None or (tokens and not before):
            self._make_up(journal, [entry for _, entry in journal.record.entries_below(path)])

    @contextmanager
    def hearing(self, happening: Happening) -> Iterator[None]:
        types = events.OF_KIND.get(happening.kind)
        if types is None or happening.replayed or self._tokens_of(happening.name) is None:
            yield
            return
        begin, end = types
        name = happening.name
        is_place = happening.kind in events.PLACES
        # What has ended and is not recorded was taken back: the run has been rewound.
        part = 0 if is_place else self._times(end, name)
        self._add(Key(begin, name, part), self._asked(happening))
        if not is_place:
            self._note_made(name)
        try:
            yield
        except asyncio.CancelledError:
            self._tell_rest(name)
            if self._journal is None or not self._journal.latch.is_over:
                self._add(Key(events.ABANDONED[happening.kind], name, part), {})
            raise
        except Exception as error:
            self._tell_rest(name)
            ended = self._end(name, end) if is_place else Key(end, name, part)
            self._add(ended, _came_of(happening, error))
            raise
        except BaseException:
            self._tell_rest(name)  # cut short: it goes on, or is made again
            raise
        self._tell_rest(name)
        ended = self._end(name, end) if is_place else Key(end, name, part)
        self._add(ended, _came_of(happening, None))

    def asks(self, name: str) -> None:
        if self._is_over or not self._tokens_of(name):
            return
        self._tell_rest(name)
        with self._lock:
            before = self._answers.get(name)
            attempt = self._attempts.get(name, 0) if before is None else before.attempt
            self._answers[name] = _Answer(attempt + 1)

    def hears(self, name: str, text: str) -> None:
        if self._is_over or not self._tokens_of(name):
            return
        now = time.monotonic()
        with self._lock:
            answer = self._answers.setdefault(name, _Answer(1))
            answer.since = answer.since if answer.pieces else now
            answer.pieces.append(text)
            is_due = now - answer.since >= PIECE
        if is_due:
            self._tell_rest(name)

    @property
    def _is_over(self) -> bool:
        """Whether the run has ended: a request that was left behind may still stream."""
        return self._journal is not None and self._journal.latch.is_over

    def _tell_rest(self, name: str) -> None:
        """Tell of the pieces of an answer that have come since it was last told of."""
        with self._lock:
            answer = self._answers.get(name)
            if answer is None or not answer.pieces:
                return
            pieces, answer.pieces = answer.pieces, []
            part = answer.attempt * PIECES + answer.told
            answer.told += 1
            attempt = answer.attempt
        data: dict[str, Any] = {"attempt": attempt, "pieces": len(pieces)}
        try:
            # What a user's `redact` looks for may lie in two pieces.
            if self._journal is not None and not self._journal.writer.redact:
                data["text"] = sealing.seal("".join(pieces))
        except Exception as error:  # of the serializer
            told = type(error).__name__
            logger.warning("Run %s: tokens of %s are not kept (%s).", self._run_id, name, told)
        self._add(Key(events.TOKENS, name, part), data)

    def _asked(self, happening: Happening) -> dict[str, Any]:
        model = happening.request.get("model") if happening.kind == "llm" else None
        if not isinstance(model, str):
            return {}
        model = known.hide(model)
        try:
            for redact in () if self._journal is None else self._journal.writer.redact:
                model = redaction.redacted_text(model, redact)
        except Exception:  # of the user's function: what it has not seen is not told
            return {}
        return {"model": model}

    def _tokens_of(self, name: str) -> bool | None:
        """Whether tokens of what is called `name` are told of; None if nothing of it is."""
        found = [heard for heard in map(self._heard.get, (*above(name), "")) if heard is not None]
        return any(found) if found else None

    # What is recorded and not told -------------------------------------------------

    def _make_up(self, journal: Journal, entries: Iterable[Entry]) -> None:
        """Tell of what is recorded, if nobody has.

        A process was killed before its events were written; or the run is a fork, and these are
        the entries that it was given.
        """
        entries = [entry for entry in entries if entry.is_readable]
        if not entries:
            return
        made = FromRecord(self._run_id, {entry.name: entry.kind for entry in entries})
        for entry in entries:
            for fact in made.of(entry):
                tokens = self._tokens_of(fact.key.path)
                if tokens and fact.key.type == _ANSWERED and fact.key not in self._known:
                    self._put_whole(entry, fact)
                if tokens is not None:
                    self._put(fact)
            entry.let_go()

    def _put_whole(self, entry: Entry, ended: Fact) -> None:
        """Tell of a recorded answer in one piece: the last of its pieces were not written."""
        text = payload_of(entry).get("result")
        if not isinstance(text, str):
            return
        attempt = self._attempts.get(entry.name, 0) + 1
        data = {"attempt": attempt, "pieces": 1, "text": sealing.seal(text), "recorded": True}
        key = Key(events.TOKENS, entry.name, attempt * PIECES)
        self._put(Fact(self._run_id, key, ended.at_ms, data))

    def _next(self, type_: str) -> Key:
        """The next of events that may come once in each execution."""
        with self._lock:
            parts = [key.part for key in self._known if key.type == type_ and not key.path]
        return Key(type_, "", max(parts, default=0) + 1)

    def _times(self, type_: str, path: str) -> int:
        """How often this has happened."""
        part = 0
        while Key(type_, path, part) in self._known:
            part += 1
        return part

    def _end_run(self, facts: Mapping[str, Any]) -> None:
        """A reader has heard that this execution began, so it hears of its end, too."""
        times = self._times(events.RUN_ENDED, "")
        self._add(Key(events.RUN_ENDED, "", times), facts)

    def _end(self, path: str, type_: str) -> Key:
        """The end of a place: another one if more was done in it since it ended."""
        times = self._times(type_, path)
        with self._lock:
            is_another = path in self._made
        return Key(type_, path, times if is_another else max(0, times - 1))

    def _note_made(self, name: str) -> None:
        """The call `name` is made in this execution, and not answered from the record."""
        if names.in_background(name) or names.inside_save(name):
            return
        with self._lock:
            while name:
                name = name.rpartition("/")[0]
                self._made.add(name)

    def _add(self, key: Key, data: Mapping[str, Any]) -> None:
        self._put(Fact(self._run_id, key, now_ms(), data))

    def _put(self, fact: Fact) -> None:
        with self._lock:
            if fact.key in self._known:
                return
            self._known.add(fact.key)
        self._writer.put(fact)


def _came_of(happening: Happening, error: Exception | None) -> dict[str, Any]:
    told = {**happening.facts, **({"recorded": True} if happening.replayed else {})}
    if happening.payload is not None:
        return {**outcome(happening.payload), **told}
    if error is None:
        return {"status": "done", **told}
    return {"status": "failed", "error": type(error).__name__, **told}


_STREAM = "events.stream"


def of_journal(journal: Journal) -> EventStream:
    """The events of the run that `journal` is of; one in an execution."""
    with journal.record.lock(_STREAM):
        if _STREAM not in journal.kept:
            journal.kept[_STREAM] = EventStream(journal.run_id, launched_writer())
        found: EventStream = journal.kept[_STREAM]
        return found


def opened(journal: Journal) -> EventStream | None:
    """The same, if there is one."""
    return journal.kept.get(_STREAM)
