"""What a run has done, by name: a call is answered from its entry, or made and recorded.

Invariants:

1. A name says where in the work a call happened, never when. It is claimed once in an execution.
2. A recorded name gives its recorded result, in whatever order threads arrive. It runs nothing.
3. A new call gets a step id past every recorded one, and past every id a pin keeps free.
4. First run and replay see the same value: the decoded copy of what was stored.
5. A call's own failure is an entry. Any other failure (cancelled, ownership lost, drift, database)
   ends the run: it is latched, travels as a BaseException, and every later call raises it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, NoReturn, TypeVar, cast

from crewai_dbos import _patches
from crewai_dbos._dbos_seam.context import DBOSContext
from crewai_dbos._dbos_seam.rows import operation_name
from crewai_dbos._journal.activity import Activity
from crewai_dbos._journal.attempt import Attempt
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.config import PLAIN
from crewai_dbos._journal.drift import drift
from crewai_dbos._journal.endings import Endings
from crewai_dbos._journal.entry import Entry
from crewai_dbos._journal.execution import Execution
from crewai_dbos._journal.group import Group
from crewai_dbos._journal.in_flight import InFlight
from crewai_dbos._journal.latch import Latch
from crewai_dbos._journal.listening import Happening, Listeners
from crewai_dbos._journal.open_calls import OpenCall
from crewai_dbos._journal.payload import Payload, pin
from crewai_dbos._journal.place import Place
from crewai_dbos._journal.record import Record
from crewai_dbos._journal.replay import Replay
from crewai_dbos._journal.watching import watcher
from crewai_dbos._journal.writing import Writer
from crewai_dbos._secrets import known
from crewai_dbos._secrets.given import Given
from crewai_dbos._stored import names
from crewai_dbos._stored.redaction import Redact
from crewai_dbos._threads import off_the_loop
from crewai_dbos.errors import CrewaiDbosError, DriftError

T = TypeVar("T")


class Journal:
    """Makes the calls of one execution of a workflow, or answers them from its record.

    One object for each execution; threads share it. A `Scope` asks it on behalf of its place.

    Attributes:
        root: DBOS's context of the workflow.
        kept: What others keep for as long as the workflow is executed.
        run_id: The workflow's id.
        secrets: Texts that must not be stored when a call, work that joined, or the run fails.
        record: What is recorded.
        latch: What has ended the run.
        execution: What this is the journal of.
        activity: What of it is at work.
        listeners: Who is told of it.
        replay: The answers from the record.
        writer: Writes new entries.
        endings: How work ended that its caller outlives.
        meters: By place, what counts the cost of the entries that are made.
    """

    def __init__(self, root: DBOSContext) -> None:
        self.root = root
        self.run_id: str = root.workflow_id
        self.kept: dict[str, Any] = {}
        self.meters: dict[str, Callable[[str, Payload], None]] = {}
        self.secrets = known.OfRun()
        self.latch = Latch(self.run_id)
        _patches.apply(_patches.JOURNAL)
        self.execution = Execution(self.run_id, root.owner_xid, self.latch)
        self.activity = Activity(self.latch)
        self.listeners = Listeners()
        self.record = Record(root, self.execution)
        self.replay = Replay(self.run_id, self.record, self.latch)
        self.writer = Writer(self.execution, self.record.key_id)
        self.endings = Endings(
            self.run_id, self.record, self.latch, self.replay, self.writer, self.secrets
        )

    def keep_back(self, secrets: Given, redact: Redact | None) -> None:
        """Store from now on only what a definition lets through.

        Args:
            secrets: Texts that it calls secrets.
            redact: Its function for what is stored.
        """
        self.secrets.look_at(secrets)
        if redact is not None and redact not in self.writer.redact:
            self.writer.redact.append(redact)

    def fail(self, error: BaseException) -> NoReturn:
        """End the run with `error`, past everything that catches `Exception`."""
        self.latch.fail(error)

    def close(self) -> None:
        """The workflow has returned: a thread that was left behind records no more."""
        self.latch.is_closed = True

    # Calls -------------------------------------------------------------------

    def run(self, place: Place, call: Call, function: Callable[[], T]) -> T:
        """The result of `call`: the recorded one, or that of `function`, which is then recorded.

        Args:
            place: Where the call happens.
            call: What is called.
            function: Makes the call. A coroutine function runs on DBOS's event loop, if that is
                free.

        Returns:
            A decoded copy of the result.

        Raises:
            Exception: The call's own error, rebuilt from the record.
            ControlSignal: The run is over for another reason.
        """
        return off_the_loop(lambda: self._run(place, call, function))

    def _run(self, place: Place, call: Call, function: Callable[[], T]) -> T:
        name, entry = self.replay.claim(place, call)
        with self._told(name, call, entry) as told:
            if entry is not None:
                return cast(T, self.replay.answer(entry, call))
            try:
                self.endings.check_not_abandoned(name)
                self._pass_gate(name, call)
                with self.activity.working(), watcher.in_flight(self.execution) as in_flight:
                    attempt = self._attempt(name, call, in_flight)
                    body = attempt.of(function)
                    reservation = self.record.ids.reserve(place.path)
                    payload = self.writer.write(reservation, name, call.config, body)
            finally:
                self.record.done(place, name)
            return cast(T, self._first_answer(told, call, payload, attempt.raised))

    async def arun(self, place: Place, call: Call, function: Callable[[], Awaitable[T]]) -> T:
        """As `run`, for async code."""
        name, entry = self.replay.claim(place, call)
        with self._told(name, call, entry) as told:
            if entry is not None:
                return cast(T, await self.replay.aanswer(entry, call))
            await self.endings.unless_abandoned(name)
            started = time.time()
            try:
                await self._apass_gate(name, call)
                with self.activity.working(), watcher.in_flight(self.execution) as in_flight:
                    attempt = self._attempt(name, call, in_flight)
                    body = attempt.of_async(function)
                    reservation = self.record.ids.reserve(place.path)
                    payload = await self.writer.awrite(reservation, name, call.config, body)
            except asyncio.CancelledError:
                self.endings.abandon(name, time.time() - started)
                raise
            finally:
                self.record.done(place, name)
            return cast(T, self._first_answer(told, call, payload, attempt.raised))

    def group(self, place: Place, call: Call, function: Callable[[OpenCall], T]) -> T:
        """As `run`, for a call with recorded calls inside: these come first, then its own result.

        On recovery the recorded result is used without going inside; without one, the inside is
        replayed.

        Args:
            place: Where the call happens.
            call: What is called.
            function: Makes the calls inside, in the place that is named like the call.
        """
        name, entry = self.replay.claim(place, call)
        with self._told(name, call, entry) as told:
            if entry is not None:
                self.replay.pass_over(name)
                return cast(T, self.replay.answer(entry, call))
            group = self._begun(name, call)
            try:
                self.execution.check()
                with self.activity.working():
                    try:
                        group.returned(function(group.opened))
                    except Exception as error:
                        self.latch.raise_if_over()
                        group.failed(error, self.secrets)
                    reservation = self.record.ids.reserve(place.path)
                    payload = self.writer.write(reservation, name, PLAIN, lambda: group.payload)
            finally:
                self.record.done(place, name)
            return cast(T, self._first_answer(told, call, payload, group.raised))

    async def agroup(
        self, place: Place, call: Call, function: Callable[[OpenCall], Awaitable[T]]
    ) -> T:
        """As `group`, for async code."""
        name, entry = self.replay.claim(place, call)
        with self._told(name, call, entry) as told:
            if entry is not None:
                self.replay.pass_over(name)
                return cast(T, await self.replay.aanswer(entry, call))
            await self.endings.unless_abandoned(name)
            group = self._begun(name, call)
            try:
                await self.execution.acheck()
                with self.activity.working(), watcher.in_flight(self.execution) as in_flight:
                    try:
                        group.returned(await in_flight.awaiting(function(group.opened)))
                    except Exception as error:
                        self.latch.raise_if_over()
                        group.failed(error, self.secrets)
                    reservation = self.record.ids.reserve(place.path)
                    payload = await self.writer.awrite(reservation, name, PLAIN, group.apayload)
            except asyncio.CancelledError:
                self.endings.abandon(name, group.seconds())
                raise
            finally:
                self.record.done(place, name)
            return cast(T, self._first_answer(told, call, payload, group.raised))

    def _first_answer(
        self, told: Happening, call: Call, payload: Payload, raised: list[Exception]
    ) -> Any:
        """The result of a call that has been made and recorded now."""
        told.payload = payload
        self._count(told.name, payload)
        return self.replay.first_answer(told.name, payload, call, raised)

    def _begun(self, name: str, call: Call) -> Group:
        # Crash tests hear here that it begins.
        return Group(self.run_id, name, call)

    def check_complete(self, path: str, *, background: bool = True) -> None:
        """Stop the run if a call recorded under `path` was not asked for.

        Args:
            background: Whether what goes on in the background has ended there too.
        """
        self.latch.raise_if_over()
        try:
            self.record.check_complete(path, background=background)
        except DriftError as error:
            self.fail(error)

    def _told(
        self, name: str, call: Call, entry: Entry | None
    ) -> AbstractContextManager[Happening]:
        """The block is `call`: its listeners are told."""
        replayed = entry is not None
        return self.listeners.told(Happening(name, call.kind, call.request, replayed=replayed))

    def _pass_gate(self, name: str, call: Call) -> None:
        """Return when the new call `name` may be made."""
        while call.gate is not None and (opens := call.gate(name)) is not None:
            with self.activity.working(), self.activity.waiting():
                opens.result()

    async def _apass_gate(self, name: str, call: Call) -> None:
        while call.gate is not None and (opens := call.gate(name)) is not None:
            with self.activity.working(), self.activity.waiting():
                # Others wait for it too, when this one is cancelled.
                await asyncio.shield(asyncio.wrap_future(opens))

    def _count(self, name: str, payload: Payload) -> None:
        for count in list(self.meters.values()):
            count(name, payload)

    def _attempt(self, name: str, call: Call, in_flight: InFlight) -> Attempt:
        return Attempt(OpenCall(self.run_id, name), call, self.secrets, in_flight)

    # DBOS operations of the user's code ----------------------------------------

    def pin(self, place: Place, ids: int) -> int:
        """Step ids for a DBOS operation that user code makes in `place`; the same on recovery.

        Writes one small row that says which ids are taken, then leaves them to DBOS.

        Args:
            place: Where the operation happens.
            ids: How many consecutive ids it needs.

        Returns:
            The first of them.
        """
        call = Call(names.PIN, kind="pin")
        name, entry = self.replay.claim(place, call)
        if entry is not None:
            return entry.step_id + 1
        try:
            reservation = self.record.ids.reserve(place.path, 1 + ids)
            payload = pin(call, ids)
            self.writer.write(reservation, name, PLAIN, lambda: payload)
        except CrewaiDbosError as error:
            self.fail(error)
        finally:
            self.record.done(place, name)
        return int(reservation.step_id) + 1

    def check_pinned(self, step_id: int, step_name: str) -> None:
        """Stop the run if the pinned `step_id` was recorded by a step of another name."""
        recorded = self.record.recorded_step(step_id)
        if recorded is not None and operation_name(recorded) != operation_name(step_name):
            self.fail(
                drift(
                    f"Run {self.run_id}: the DBOS step {recorded!r} was recorded where now "
                    f"{step_name!r} is called.",
                    self.record.onward_of_step(step_id),
                )
            )
