"""How work ended that its caller outlives: what a clock decided can't be found out by replaying it.

Work that has joined a user's workflow and failed leaves an entry with the error. A call or work
whose asyncio task was cancelled leaves a mark, so that it is abandoned again on recovery.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, NoReturn

from crewai_dbos._journal.call import Call
from crewai_dbos._journal.config import PLAIN
from crewai_dbos._journal.drift import drift
from crewai_dbos._journal.latch import Latch
from crewai_dbos._journal.payload import Payload, failure, success
from crewai_dbos._journal.place import Place
from crewai_dbos._journal.record import Record
from crewai_dbos._journal.replay import Replay
from crewai_dbos._journal.writing import Writer
from crewai_dbos._signals import ControlSignal
from crewai_dbos._stored import names

logger = logging.getLogger("crewai_dbos")

_END = Call(names.END, kind="end", background=True)
_ABANDONED = Call(names.ABANDONED, kind="given_up", background=True)

PATIENCE = 10.0
"""Seconds for which an abandoned call is held beyond the time after which it was abandoned."""

MOST_PATIENCE = 7 * 24 * 3600.0
"""The most seconds that a row is believed which says after how long a call was abandoned."""


class End(NamedTuple):
    """How work was recorded to have ended.

    Attributes:
        step_id: The entry's step id.
        redacted: The payload, if a user's `redact` has made another one of it.
    """

    step_id: int
    redacted: Payload | None


class Endings:
    """The ends of work in one execution of a workflow.

    Args:
        run_id: The run's workflow id.
        record: What is recorded.
        latch: What ends the run.
        replay: Answers from the record.
        writer: Writes new entries.
        secrets: Texts that must not be stored of an error.
    """

    def __init__(
        self,
        run_id: str,
        record: Record,
        latch: Latch,
        replay: Replay,
        writer: Writer,
        secrets: Collection[str],
    ) -> None:
        self._run_id = run_id
        self._record = record
        self._latch = latch
        self._replay = replay
        self._writer = writer
        self._secrets = secrets

    def record_failure(self, place: Place, error: Exception) -> NoReturn:
        """Record that the work in `place` ended with `error`, and raise the recorded copy."""
        payload = self._write_last(place, _END, failure(_END, error, secrets=self._secrets))
        self._replay.first_answer(place.path, payload, _END, [error])
        raise AssertionError

    def replay_failure(self, place: Place) -> None:
        """Raise the error that the work in `place` is recorded to have ended with, if it has."""
        if self._record.is_recorded(place, _END.what):
            _, entry = self._replay.claim(place, _END)
            assert entry is not None
            self._replay.pass_over(place.path)
            self._replay.answer(entry, _END)

    def abandon(self, name: str, seconds: float) -> None:
        """Mark the call or work `name`, whose asyncio task was cancelled.

        Args:
            name: Its name.
            seconds: For how long it had been at work.
        """
        if self._latch.is_over or self._record.abandoned(name) is not None:
            return
        # Whoever cancelled the task waits for it to end, not for what else went wrong.
        with contextlib.suppress(ControlSignal):
            self._write_last(Place(name), _ABANDONED, success(_ABANDONED, seconds))

    async def unless_abandoned(self, name: str) -> None:
        """Wait to be cancelled if the call or work `name` was abandoned and its caller went on.

        The same time limit, or the same lost race, cuts it short again.

        Raises:
            ControlSignal: Nobody does.
        """
        mark = self._record.abandoned(name)
        if mark is None:
            return
        self._replay.pass_over(name)
        logger.info("Run %s: %s waits to be cut short, as it was recorded.", self._run_id, name)
        worked = self._replay.answer(mark, _ABANDONED)
        is_a_time = type(worked) in (int, float) and 0 <= worked <= MOST_PATIENCE
        await asyncio.sleep(PATIENCE + (worked if is_a_time else 0))
        self._latch.fail(
            drift(
                f"Run {self._run_id}: {name} was cut short by its caller, which then went on, and "
                "now nobody cuts it short. If a time limit was changed, put it back. If the "
                "program was being stopped at that time and only cleaned up, the fork does the "
                "work from there on.",
                self._record.onward(mark.name),
            )
        )

    def check_not_abandoned(self, name: str) -> None:
        """As `unless_abandoned`, for a call of sync code, which nobody can cut short.

        A call that sync code makes is never marked: this one was made by async code when it was.
        Work of sync code that raised a `CancelledError` of its own does so again, without help.
        """
        mark = self._record.abandoned(name)
        if mark is not None:
            self._latch.fail(
                drift(
                    f"Run {self._run_id}: {name} was cut short by its caller, which then went on. "
                    "It was made by async code, and now sync code makes it, which nobody can cut "
                    "short.",
                    self._record.onward(mark.name),
                )
            )

    def _write_last(self, place: Place, call: Call, payload: Payload) -> Payload:
        """Record it in any case; returns what is stored."""
        name, entry = self._replay.claim(place, call)
        while entry is not None:  # that of an earlier time
            name, entry = self._replay.claim(place, call)
        reservation = self._record.reserve_last(place.path)
        return self._writer.write(reservation, name, PLAIN, lambda: payload)

    # A method of a flow --------------------------------------------------------
    # Its calls come first, then an entry beside them.

    def replay_end(self, place: Place, call: Call) -> Any:
        """The recorded end `call` of the work in `place`, without doing what is left of it.

        Raises:
            Exception: The recorded error.
        """
        _, entry = self._replay.claim(place, call)
        assert entry is not None
        self._replay.pass_over(place.path)
        return self._replay.answer(entry, call)

    async def record_end(
        self,
        place: Place,
        call: Call,
        get: Callable[[], Any],
        seconds: float,
        *,
        expect: Callable[[int], None],
        observe: Callable[[], None] = lambda: None,
    ) -> End:
        """Record how the work in `place` ended.

        Args:
            place: Where the work was done.
            call: Names the entry. What it collects is observed when the entry gets its id, so that
                the order of ids is that of what they tell.
            get: Returns the result, or raises the error.
            seconds: How long the work took.
            expect: Told the entry's step id before it is written: writes may overtake each other.
            observe: Called before `get`, while nobody else gets an id. Its errors end the run.
        """
        name, _ = self._replay.claim(place, call)
        with self._record.allocating_alone():
            try:
                observe()
            except Exception as error:
                self._latch.fail(error)
            try:
                payload = success(call, get(), seconds=seconds)
            except Exception as error:
                self._latch.raise_if_over()
                payload = failure(call, error, seconds=seconds, secrets=self._secrets)
            reservation = self._record.ids.reserve(place.path)
            expect(int(reservation.step_id))

        async def body() -> Payload:
            return payload

        stored = await self._writer.awrite(reservation, name, PLAIN, body)
        is_redacted = self._writer.redact and any(
            stored.get(name) != payload.get(name) for name in ("result", "error", "extra")
        )
        return End(int(reservation.step_id), stored if is_redacted else None)
