"""What a run has done, by name. The only module that asks DBOS to record a step.

Invariants:

1. A name says where in the work a call happened, never when. It is claimed once in an execution.
2. A recorded name gives its recorded outcome, in whatever order threads arrive. It runs nothing.
3. A new call gets a step id past every recorded one, and past every id a pin keeps free.
4. First run and replay see the same value: the decoded copy of what was stored.
5. A call's own failure is an entry. Any other failure (cancelled, ownership lost, drift, database)
   ends the run: it is latched, travels as a BaseException, and every later call raises it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NoReturn, TypeVar, cast

from dbos import StepReservation

from crewai_dbos._dbos_seam import (
    DBOSContext,
    operation_name,
    portable_row,
    write_portable_rows,
)
from crewai_dbos._journal.attempt import Attempt
from crewai_dbos._journal.config import PLAIN, StepConfig
from crewai_dbos._journal.entry import Call, Entry
from crewai_dbos._journal.payload import Payload, failure, opened, pin, redacted, sealed, success
from crewai_dbos._journal.record import Record
from crewai_dbos._journal.scope import OpenCall, Scope, inside_summary
from crewai_dbos._secrets import known
from crewai_dbos._secrets.given import Given
from crewai_dbos._signals import ControlSignal
from crewai_dbos._stored import codec, names
from crewai_dbos._stored.redaction import Redact
from crewai_dbos._stored.usage import counted
from crewai_dbos._threads import Strand, in_event_loop, off_the_loop
from crewai_dbos.errors import (
    ConcurrentRunError,
    CrewaiDbosError,
    DriftError,
    JournalCorruptError,
    LostContextError,
    SealedError,
)

logger = logging.getLogger("crewai_dbos")

T = TypeVar("T")

_END = Call(names.END, kind="end", background=True)
_GIVEN_UP = Call(names.GIVEN_UP, kind="given_up", background=True)

PATIENCE = 10.0
"""Seconds for which a given-up call is held beyond the time after which it was given up."""

MOST_PATIENCE = 7 * 24 * 3600.0
"""Seconds after which a call that was given up can have been; a row may say anything."""


class Journal:
    """Makes the calls of one execution of a workflow, or answers them from its record.

    One object for each execution; threads share it.

    Attributes:
        root: DBOS's context of the workflow.
        run_id: The workflow's id.
        llms: By place and role, what gives an LLM back the usage of a request that is not replayed.
        secrets: Texts that must not be stored when a part or the run fails.
        redact: What every text that is stored goes through.
        tokens_saved: Of the requests that were answered from the record.
    """

    def __init__(self, root: DBOSContext) -> None:
        self.root = root
        self.run_id: str = root.workflow_id
        self.llms: dict[tuple[str, str], Callable[[Any], int | None]] = {}
        self.secrets = known.OfRun()
        self.redact: list[Redact] = []
        self.tokens_saved = 0
        self._latched: BaseException | None = None
        self._closed = False
        self._drift_told = False
        write_portable_rows()
        self.record = Record(root)

    def keep_back(self, secrets: Given, redact: Redact | None) -> None:
        """Store from now on only what a definition lets through.

        Args:
            secrets: Texts that it calls secrets.
            redact: Its function for what is stored.
        """
        self.secrets.look_at(secrets)
        if redact is not None and redact not in self.redact:
            self.redact.append(redact)

    def _claim(self, scope: Scope, call: Call) -> tuple[str, Entry | None]:
        self.raise_if_over()
        try:
            return self.record.claim(scope, call)
        except CrewaiDbosError as error:
            self.fail(error)

    def next_part(self, path: str, what: str, order: str, *, in_turn: bool) -> str:
        """The name of the next `what` under `path`, which carries out `order`; see `Parts`."""
        try:
            return self.record.parts.next_name(path, what, order, in_turn=in_turn)
        except CrewaiDbosError as error:
            self.fail(error)

    def pin(self, scope: Scope, ids: int) -> int:
        """Step ids for a DBOS operation that user code makes in `scope`; the same on recovery.

        Writes one small row that says which ids are taken, then leaves them to DBOS.

        Args:
            scope: Where the operation happens.
            ids: How many consecutive ids it needs.

        Returns:
            The first of them.
        """
        if not scope.is_alone_here():
            self.fail(
                ConcurrentRunError(
                    f"Run {self.run_id}: {scope.path} made a DBOS operation on another thread or "
                    "in another asyncio task than its own, where only their order would tell it "
                    "apart after a crash. Make it on its own thread, one after the other; or with "
                    "crewai_dbos.step(function, ...), which goes by the arguments; or in a DBOS "
                    "workflow of its own."
                )
            )
        call = Call(names.PIN, kind="pin")
        name, entry = self._claim(scope, call)
        if entry is not None:
            return entry.step_id + 1
        try:
            reservation = self.record.reserve(scope.path, 1 + ids)
            payload = pin(call, ids)
            self._write(reservation, name, PLAIN, lambda: payload)
        except CrewaiDbosError as error:
            self.fail(error)
        finally:
            self.record.done(scope, name)
        return int(reservation.step_id) + 1

    def tell_of_drift(self, message: str) -> None:
        """Warn, once in a run, that the code has changed since it began."""
        if not self._drift_told:
            self._drift_told = True
            logger.warning("%s", message)

    def check_complete(self, path: str, *, background: bool = True) -> None:
        """Stop the run if a call recorded under `path` was not asked for.

        Args:
            background: Whether what goes on in the background has ended there too.
        """
        self.raise_if_over()
        try:
            self.record.check_complete(path, background=background)
        except DriftError as error:
            self.fail(error)

    def check_pinned(self, step_id: int, step_name: str) -> None:
        """Stop the run if the pinned `step_id` was recorded by a step of another name."""
        recorded = self.record.recorded_step(step_id)
        if recorded is not None and operation_name(recorded) != operation_name(step_name):
            self.fail(
                DriftError(
                    f"Run {self.run_id}: the DBOS step {recorded!r} was recorded where now "
                    f"{step_name!r} is called. Put the code back and "
                    f"DBOS.resume_workflow({self.run_id!r}), or fork the run."
                )
            )

    # Calls -------------------------------------------------------------------

    def run(self, scope: Scope, call: Call, function: Callable[[], T]) -> T:
        """The outcome of `call`: the recorded one, or that of `function`, which is then recorded.

        Args:
            scope: Where the call happens.
            call: What is called.
            function: Makes the call. A coroutine function runs on DBOS's event loop.

        Returns:
            A decoded copy of the result.

        Raises:
            Exception: The call's own error, rebuilt from the record.
            ControlSignal: The run is over for another reason.
        """
        call = scope.told_apart(call)
        return off_the_loop(lambda: self._run(scope, call, function))

    def _run(self, scope: Scope, call: Call, function: Callable[[], T]) -> T:
        name, entry = self._claim(scope, call)
        if entry is not None:
            return cast(T, self._replay(entry, call))
        try:
            body = self._attempt(name, call).of(function)
            reservation = self.record.reserve(scope.path)
            payload = self._write(reservation, name, call.config, body)
        finally:
            self.record.done(scope, name)
        return cast(T, self._outcome(name, payload, call))

    async def arun(self, scope: Scope, call: Call, function: Callable[[], Awaitable[T]]) -> T:
        """As `run`, for async code."""
        call = scope.told_apart(call)
        name, entry = self._claim(scope, call)
        if entry is not None:
            return cast(T, self._replay(entry, call))
        await self.unless_given_up(name)
        started = time.time()
        try:
            reservation = self.record.reserve(scope.path)
            body = self._attempt(name, call).of_async(function)
            payload = await self._awrite(reservation, name, call.config, body)
        except asyncio.CancelledError:
            self.give_up(name, time.time() - started)
            raise
        finally:
            self.record.done(scope, name)
        return cast(T, self._outcome(name, payload, call))

    def summarize(
        self, scope: Scope, call: Call, function: Callable[[], T], *, ordered: bool = False
    ) -> T:
        """As `run`, for a call with recorded calls inside: these come first, then its own outcome.

        On recovery the recorded outcome is used without going inside; without one, the inside is
        replayed.

        Args:
            scope: Where the call happens.
            call: What is called.
            function: Makes the calls inside, in a scope named like this call.
            ordered: Whether the calls inside follow one another.
        """
        call = scope.told_apart(call)
        name, entry = self._claim(scope, call)
        if entry is not None:
            self._pass_over(name)
            return cast(T, self._replay(entry, call))
        try:
            summary = inside_summary(OpenCall(self.run_id, name))
            inside = Scope(self, name, ordered=ordered, strand=Strand.here())
            with inside.entered(), summary:
                started = time.time()
                try:
                    value = function()
                except Exception as error:
                    self.raise_if_over()
                    payload = self._failure(call, error, time.time() - started)
                else:
                    payload = success(call, value, seconds=time.time() - started)
            self._write(self.record.reserve(scope.path), name, PLAIN, lambda: payload)
        finally:
            self.record.done(scope, name)
        return cast(T, self._outcome(name, payload, call))

    # Outcomes ----------------------------------------------------------------
    # Of work whose place is known before it is: its calls come first, then an entry beside them.

    def replay_outcome(self, scope: Scope, call: Call) -> Any:
        """The recorded outcome `call` of the work in `scope`, without doing what is left of it.

        Raises:
            Exception: The recorded error.
        """
        _, entry = self._claim(scope, call)
        assert entry is not None
        self._pass_over(scope.path)
        return self._replay(entry, call)

    async def record_outcome(
        self,
        scope: Scope,
        call: Call,
        get: Callable[[], Any],
        seconds: float,
        *,
        expect: Callable[[int], None],
        look: Callable[[], None] = lambda: None,
    ) -> int:
        """Record how the work in `scope` ended.

        Args:
            scope: Where the work was done.
            call: Names the entry. What it collects is looked at when the entry gets its id, so that
                the order of ids is that of what they tell.
            get: Returns the outcome, or raises it.
            seconds: How long the work took.
            expect: Told the entry's step id before it is written: writes may overtake each other.
            look: Called before `get`, when nobody else gets an id. Its errors are not the work's.

        Returns:
            The entry's step id.
        """
        name, _ = self._claim(scope, call)
        with self.record.settled():
            try:
                look()
            except Exception as error:
                self.fail(error)
            try:
                payload = success(call, get(), seconds=seconds)
            except Exception as error:
                self.raise_if_over()
                payload = self._failure(call, error, seconds)
            reservation = self.record.reserve(scope.path)
            expect(int(reservation.step_id))

        async def body() -> dict[str, Any]:
            return payload

        await self._awrite(reservation, name, PLAIN, body)
        return int(reservation.step_id)

    # The end of a part -------------------------------------------------------
    # What a time limit cut short can't be found out by replaying it.

    def fail_part(self, scope: Scope, error: Exception) -> NoReturn:
        """Record that the part `scope` of a workflow ended with `error`, and raise the copy.

        Raises:
            Exception: The recorded copy of `error`.
        """
        payload = self._failure(_END, error)
        self._mark(scope, _END, payload)
        self._outcome(scope.path, payload, _END)
        raise AssertionError

    def replay_failed_part(self, scope: Scope) -> None:
        """Raise the error that the part `scope` is recorded to have ended with, if it has.

        Raises:
            Exception: That error.
        """
        if self.record.is_recorded(scope, _END.what):
            _, entry = self._claim(scope, _END)
            assert entry is not None
            self._pass_over(scope.path)
            self._replay(entry, _END)

    def give_up(self, name: str, seconds: float) -> None:
        """Mark the call or part `name`, whose asyncio task was cancelled, as cut short.

        Args:
            name: Its name.
            seconds: For how long it had been at work.
        """
        over = self._latched is not None or self._closed
        if over or self.record.was_given_up(name) is not None:
            return
        # Whoever cancelled the task waits for it to end, not for what else went wrong.
        with contextlib.suppress(ControlSignal):
            self._mark(Scope(self, name), _GIVEN_UP, success(_GIVEN_UP, seconds))

    async def unless_given_up(self, name: str) -> None:
        """Wait to be cancelled if the call or part `name` was cut short and its caller went on.

        The same time limit, or the same lost race, cuts it short again.

        Raises:
            ControlSignal: Nobody does.
        """
        mark = self.record.was_given_up(name)
        if mark is None:
            return
        self._pass_over(name)
        logger.info("Run %s: %s waits to be cut short, as it was recorded.", self.run_id, name)
        worked = self._replay(mark, _GIVEN_UP)
        known = type(worked) in (int, float) and 0 <= worked <= MOST_PATIENCE
        await asyncio.sleep(PATIENCE + (worked if known else 0))
        self.fail(
            DriftError(
                f"Run {self.run_id}: {name} was cut short by its caller, which then went on, and "
                "now nobody cuts it short. If a time limit was changed, put it back and "
                f"DBOS.resume_workflow({self.run_id!r}). If the program was being stopped at that "
                "time and only cleaned up, do the work from there on: "
                f"DBOS.fork_workflow({self.run_id!r}, {mark.step_id})"
            )
        )

    def _mark(self, scope: Scope, call: Call, payload: dict[str, Any]) -> None:
        name, _ = self._claim(scope, call)
        self._write(self.record.reserve_last(scope.path), name, PLAIN, lambda: payload)

    def pass_over(self, path: str) -> None:
        """What is recorded below `path` will not be asked for."""
        self._pass_over(path)

    def _pass_over(self, path: str) -> None:
        """Count what the recorded calls below `path` used, without replaying them."""
        for entry in self.record.unclaimed_under(path):
            llm = self._llm_of(entry)
            extra = entry.payload().get("extra") if entry.is_readable else None
            if extra is None or entry.kind != "llm":
                continue
            read = codec.decode(extra)
            self.tokens_saved += (counted(read).total_tokens if llm is None else llm(read)) or 0

    def _llm_of(self, entry: Entry) -> Callable[[Any], int | None] | None:
        place, role = entry.path, names.without_digest(entry.what)
        while place and (place, role) not in self.llms:
            place = place.rpartition("/")[0]
        return self.llms.get((place, role))

    def _replay(self, entry: Entry, call: Call) -> Any:
        try:
            changed = entry.changes(call)
            if changed:
                self.tell_of_drift(
                    f"Run {self.run_id}: {entry.name} was recorded with other "
                    f"{' and '.join(changed)}. The recorded outcome is used; calls not recorded "
                    "yet are made with the new code."
                )
            payload = entry.payload()
            extra = codec.decode(payload.get("extra", {}), call.known)
            outcome = call.read(entry.name, payload)
        except SealedError as error:
            self.fail(
                SealedError(
                    f"Run {self.run_id}: the journal entry {entry.name} can't be read: {error}. "
                    f"Then DBOS.resume_workflow({self.run_id!r})."
                )
            )
        except Exception as error:
            self.fail(
                JournalCorruptError(
                    f"The journal entry {entry.name} can't be read ({error}). Fork the run from "
                    f"its step to make that call again: "
                    f"DBOS.fork_workflow({self.run_id!r}, {entry.step_id})"
                )
            )
        if call.restore is not None and extra:
            self.tokens_saved += call.restore(extra) or 0
        return outcome.get()

    def _outcome(self, name: str, payload: dict[str, Any], call: Call) -> Any:
        try:
            outcome = call.read(name, payload)
        except JournalCorruptError as error:
            self.fail(error)
        return outcome.get()

    # Writing -----------------------------------------------------------------

    def _failure(self, call: Call, error: Exception, seconds: float = 0.0) -> dict[str, Any]:
        return failure(call, error, seconds=seconds, secrets=self.secrets)

    def _attempt(self, name: str, call: Call) -> Attempt:
        return Attempt(OpenCall(self.run_id, name), call, self.secrets)

    def _write(
        self, reservation: StepReservation, name: str, config: StepConfig, body: Callable[[], Any]
    ) -> Payload:
        if in_event_loop():
            return off_the_loop(lambda: self._write(reservation, name, config, body))
        with self._writing():
            return opened(reservation.run(config.step_options(name), self._as_written(body)))

    async def _awrite(
        self, reservation: StepReservation, name: str, config: StepConfig, body: Callable[[], Any]
    ) -> Payload:
        with self._writing():
            options = config.step_options(name)
            return opened(await reservation.run_async(options, self._as_written(body)))

    def _as_written(self, body: Callable[[], Any]) -> Callable[[], Any]:
        """`body` of a step, whose payload is returned as it is stored."""
        if not inspect.iscoroutinefunction(body):
            return lambda: self._sealed(body())

        async def awritten() -> Payload:
            return self._sealed(await body())

        return awritten

    def _sealed(self, payload: Payload) -> Payload:
        try:
            return sealed(redacted(payload, self.redact), self.record.key_id)
        except Exception as error:  # of the user's function or serializer, and not of the call
            raise ControlSignal(error) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """The block has DBOS record a step. Whatever else goes wrong in it ends the run."""
        try:
            with portable_row():
                yield
        except Exception as error:
            self.fail(error)
        except BaseException as error:
            self.latch(error)
            raise

    # The end -----------------------------------------------------------------

    def latch(self, error: BaseException) -> None:
        """Remember `error` as what ended the run; the first one counts."""
        # A cancelled asyncio task (a time limit, a lost race) ends a branch, not the run.
        if isinstance(error, asyncio.CancelledError):
            return
        if self._latched is None:
            self._latched = error.error if isinstance(error, ControlSignal) else error

    def fail(self, error: BaseException) -> NoReturn:
        """End the run with `error`, past everything that catches `Exception`."""
        self.latch(error)
        assert self._latched is not None
        raise ControlSignal(self._latched) from error

    @property
    def ended_by(self) -> BaseException | None:
        return self._latched

    def raise_if_over(self) -> None:
        if self._latched is not None:
            raise ControlSignal(self._latched)
        if self._closed:
            raise ControlSignal(
                LostContextError(
                    f"Run {self.run_id} is over, but a thread of it still makes calls. They are "
                    "not made. Wait for your threads before the run ends."
                )
            )

    def close(self) -> None:
        self._closed = True
