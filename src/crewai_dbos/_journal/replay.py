"""Answering calls from the record, and counting what the answers of a run did not cost again."""

from __future__ import annotations

import contextlib
import logging
import operator
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from crewai_dbos import _command_lines, _tracebacks
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.entry import Entry
from crewai_dbos._journal.latch import Latch
from crewai_dbos._journal.payload import Payload
from crewai_dbos._journal.place import Place
from crewai_dbos._journal.record import Record
from crewai_dbos._stored import codec, names
from crewai_dbos._stored.digest import without_text
from crewai_dbos._stored.usage import spent_in, tokens_of
from crewai_dbos._threads import on_a_thread
from crewai_dbos.errors import CrewaiDbosError, JournalCorruptError, SealedError

logger = logging.getLogger("crewai_dbos")

_OF_USERS = ("step", "tool")
"""Kinds of calls whose arguments are the user's."""


class Replay:
    """The recorded answers of one execution of a workflow.

    Args:
        run_id: The run's workflow id.
        record: What is recorded.
        latch: A record that does not fit the code, or can't be read, ends the run.

    Attributes:
        llms: By place and role, what gives an LLM back the usage of a request that is not replayed.
        tokens_saved: Of the requests that were answered from the record.
    """

    def __init__(self, run_id: str, record: Record, latch: Latch) -> None:
        self._run_id = run_id
        self._record = record
        self._latch = latch
        self._lock = threading.Lock()
        self._told = False
        self._alike: set[str] = set()
        self._shapeless: dict[str, list[Any]] = {}
        self.llms: dict[tuple[str, str], Callable[[Any], int | None]] = {}
        self.tokens_saved = 0

    def claim(self, place: Place, call: Call) -> tuple[str, Entry | None]:
        """The name of `call`, and its entry if it is recorded."""
        self._latch.raise_if_over()
        try:
            name, entry = self._record.claim(place, call)
        except CrewaiDbosError as error:
            self._latch.fail(error)
        by_content = call.concurrent or not place.sequential
        if entry is None and by_content and call.kind in _OF_USERS:
            self._tell_if_alike(name, call)
        return name, entry

    def _tell_if_alike(self, name: str, call: Call) -> None:
        """Warn if this call and one before it differ in nothing that their name is made of."""
        objects = without_text(list(call.request.values()))
        if not objects:
            return
        what = name.rpartition("#")[0]
        before = self._shapeless.setdefault(what, objects)
        if all(map(operator.is_, before, objects)) or what in self._alike:
            return
        self._alike.add(what)
        logger.warning(
            "Run %s: %s is made beside another call of that name. Only their arguments tell them "
            "apart after a crash, and of a %s there is no more than the name: each may then get "
            "the result of the other. Pass what differs as a text or a number, or give the class "
            "a __repr__.",
            self._run_id,
            names.without_digest(what),
            type(objects[0]).__qualname__,
        )

    def answer(self, entry: Entry, call: Call) -> Any:
        """The recorded result of `call`, or its recorded error raised."""
        try:
            changed = entry.changes(call)
            if changed:
                self.warn_of_drift(
                    f"Run {self._run_id}: {entry.name} was recorded with other "
                    f"{' and '.join(changed)}. The recorded result is used; calls not recorded "
                    "yet are made with the new code."
                )
            payload = entry.payload()
            extra = codec.decode(payload["extra"], call.known) if "extra" in payload else None
            result = call.read(entry.name, payload)
        except Exception as error:
            self._fail_to_read(entry, error)
        entry.let_go()
        if extra:
            restore = _counted if call.restore is None else call.restore
            self._save(restore(extra))
        if result.error is not None:
            _tracebacks.tell(result.error)
        return result.get()

    def first_answer(
        self, name: str, payload: Payload, call: Call, raised: Sequence[Exception] = ()
    ) -> Any:
        """As `answer`, for a call that has just been recorded.

        Args:
            name: Its name.
            payload: What is recorded.
            call: What was called.
            raised: What it has raised, if it has: a traceback leads to where that was.
        """
        try:
            result = call.read(name, payload)
        except JournalCorruptError as error:
            self._latch.fail(error)
        if result.error is not None and raised:
            _tracebacks.carried(result.error, raised[-1])
        return result.get()

    def pass_over(self, path: str) -> None:
        """What is recorded below `path` will not be asked for: count what it used."""
        for entry in self._record.claim_below(path):
            if entry.kind != "llm":
                self._save(sum(spent.tokens.total for spent in spent_in(self.stored_of(entry))))
                continue
            try:
                extra = codec.decode(entry.payload().get("extra", {}))
            except Exception as error:
                self._fail_to_read(entry, error)
            entry.let_go()
            llm = self._llm_of(entry, path)
            if extra:
                self._save(_counted(extra) if llm is None else llm(extra))

    async def aanswer(self, entry: Entry, call: Call) -> Any:
        """As `answer`, for async code: an event loop does not wait for the database."""
        if not entry.is_at_hand:
            await on_a_thread(lambda: _fetch(entry))
        return self.answer(entry, call)

    def stored_of(self, entry: Entry) -> Any:
        """The JSON data of its row, sealed or not, or None; a row that is gone ends the run."""
        try:
            return entry.stored
        except Exception as error:
            self._fail_to_read(entry, error)

    def extra_of(self, entry: Entry) -> dict[str, Any]:
        """What an entry keeps beside its result, as JSON; nothing if it is of a newer version."""
        if not entry.is_readable:
            return {}
        try:
            return dict(entry.payload().get("extra", {}))
        except Exception as error:
            self._fail_to_read(entry, error)

    def usage_of(self, entry: Entry) -> Sequence[Mapping[str, Any]]:
        """What LLMs have told in an entry; nothing if it is of a newer version."""
        if entry.usage is None:
            self.extra_of(entry)
            entry.let_go()
        return entry.usage or ()

    def _fail_to_read(self, entry: Entry, error: Exception) -> NoReturn:
        """End the run, as `entry` was asked for and can't be read."""
        if isinstance(error, SealedError):
            self._latch.fail(
                SealedError(
                    f"Run {self._run_id}: the journal entry {entry.name} can't be read: {error}. "
                    f"Then {_command_lines.resume(self._run_id)}."
                )
            )
        why: BaseException = error
        if isinstance(error, JournalCorruptError) and error.__cause__ is not None:
            why = error.__cause__  # without the name, which is said here
        text = str(why) if isinstance(why, CrewaiDbosError) else f"{type(why).__name__}: {why}"
        self._latch.fail(
            JournalCorruptError(
                f"The journal entry {entry.name} can't be read ({text}). With code that can read "
                f"it the run goes on: {_command_lines.resume(self._run_id)}. Or have that call "
                "made again, and what depends on it, in a fork: "
                f"{_command_lines.fork(self._run_id, entry.name)}"
            )
        )

    def _save(self, tokens: int | None) -> None:
        with self._lock:
            self.tokens_saved += tokens or 0

    def _llm_of(self, entry: Entry, passed: str) -> Callable[[Any], int | None] | None:
        """What the LLM is told that made `entry`, below the path that was `passed` over."""
        if names.is_joined(entry.path.removeprefix(passed)):
            # Of another agent, crew or flow, which is not made here.
            return None
        place, role = entry.path, names.without_digest(entry.what)
        while place and (place, role) not in self.llms:
            place = place.rpartition("/")[0]
        return self.llms.get((place, role))

    def warn_of_drift(self, message: str) -> None:
        """Say, once in a run, that the code has changed since it began."""
        with self._lock:
            told, self._told = self._told, True
        if not told:
            logger.warning("%s", message)


def _fetch(entry: Entry) -> None:
    with contextlib.suppress(Exception):  # told when it is asked for
        entry.payload()


def _counted(extra: Mapping[str, Any]) -> int:
    return tokens_of(extra).total
