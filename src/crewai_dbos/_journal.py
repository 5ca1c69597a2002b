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
import inspect
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, cast

from dbos import DBOS, StepReservation

from crewai_dbos import _codec, _names
from crewai_dbos._config import PLAIN, StepConfig
from crewai_dbos._dbos_seam import (
    DBOSContext,
    DBOSStepTimeoutError,
    detached,
    portable_row,
    user_code,
    using_context,
    write_portable_rows,
)
from crewai_dbos._entry import Call, Entry, failure, pin, read_entry, success
from crewai_dbos._errors import (
    ConcurrentRunError,
    ControlSignal,
    DriftError,
    JournalCorruptError,
    LostContextError,
)
from crewai_dbos._retry import retry_after
from crewai_dbos._scope import OpenCall, Scope, inside_call
from crewai_dbos._threads import in_event_loop, off_the_loop

logger = logging.getLogger("crewai_dbos")

T = TypeVar("T")


@dataclass
class _Place:
    """What is recorded and claimed directly under one path."""

    recorded: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    claimed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    sequence: deque[Entry] = field(default_factory=deque)
    running: str | None = None


class Journal:
    """The recorded entries of one workflow and the counters for new ones.

    One object for each execution of a workflow; threads share it.
    """

    def __init__(self, root: DBOSContext) -> None:
        self.root = root
        self.run_id: str = root.workflow_id
        self.replayed: dict[str, int] = defaultdict(int)
        self.llms: dict[str, Callable[[Any], None]] = {}
        self._lock = threading.RLock()
        self._latched: BaseException | None = None
        self._closed = False
        self._drift_told = False
        self._counts: dict[tuple[str, str], int] = defaultdict(int)
        self._places: dict[str, _Place] = defaultdict(_Place)
        self._entries: dict[str, Entry] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._foreign: dict[int, str] = {}
        self._last_id = root.function_id
        write_portable_rows()
        self._load()

    def _load(self) -> None:
        for row in detached(DBOS.list_workflow_steps, self.run_id):
            entry = read_entry(row)
            self._last_id = max(self._last_id, row["function_id"])
            if entry is None:
                self._foreign[row["function_id"]] = row["function_name"]
                continue
            self._last_id = max(self._last_id, entry.last_id)
            self._entries[entry.name] = entry
            place = self._places[entry.path]
            place.recorded[entry.what].append(entry.occurrence)
            place.sequence.append(entry)
        for place in self._places.values():
            for numbers in place.recorded.values():
                numbers.sort(reverse=True)

    # Names -------------------------------------------------------------------

    def count(self, path: str, what: str) -> int:
        """How many-eth `what` under `path` this is, counting from 1."""
        with self._lock:
            self._counts[path, what] += 1
            return self._counts[path, what]

    def lock(self, key: str) -> threading.Lock:
        """The lock of this run called `key`."""
        with self._lock:
            return self._locks.setdefault(key, threading.Lock())

    def _claim(self, scope: Scope, call: Call) -> tuple[str, Entry | None]:
        what = call.what if scope.ordered or call.concurrent else call.named_by_content()
        with self._lock:
            self.raise_if_over()
            place = self._places[scope.path]
            if scope.ordered and not call.concurrent:
                self._check_alone(scope, place, call)
            # Calls of equal content are interchangeable, so those already recorded go first.
            waiting = place.recorded.get(what)
            if waiting:
                occurrence = waiting.pop()
            else:
                occurrence = place.claimed[what] + 1
                while _names.numbered(scope.path, what, occurrence) in self._entries:
                    occurrence += 1
                place.claimed[what] = occurrence
            name = _names.numbered(scope.path, what, occurrence)
            entry = self._entries.get(name)
            if entry is not None:
                entry.claimed = True
                self._advance(entry.last_id)
            if scope.ordered:
                self._check_order(place, name, entry, call.concurrent)
            if scope.ordered and not call.concurrent and entry is None:
                place.running = name
        return name, entry

    def _check_alone(self, scope: Scope, place: _Place, call: Call) -> None:
        if place.running is not None:
            self.fail(
                ConcurrentRunError(
                    f"Run {self.run_id}: {call.what} was called under {scope.path!r} while "
                    f"{place.running} was still running, so only their order would tell them "
                    "apart after a crash. Make the calls one after the other, or each in a run "
                    "of its own (a DBOSAgent.execute_task of its own workflow)."
                )
            )

    def _check_order(self, place: _Place, name: str, entry: Entry | None, concurrent: bool) -> None:
        """A recorded call whose turn has passed means that the code now asks for other calls."""
        if concurrent and entry is not None:
            return
        for earlier in place.sequence:
            if entry is not None and earlier.step_id >= entry.step_id:
                break
            if not earlier.claimed and not (concurrent and earlier.concurrent):
                self.fail(
                    DriftError(
                        f"Run {self.run_id} was recorded by other code: next comes "
                        f"{earlier.name}, but {name} was called. Put the code back and "
                        f"DBOS.resume_workflow({self.run_id!r}), or fork the run."
                    )
                )
        while place.sequence and place.sequence[0].claimed:
            place.sequence.popleft()

    # Step ids ----------------------------------------------------------------

    def _advance(self, step_id: int) -> None:
        # Keeps DBOS's own counter where it was when this entry was recorded, for steps that the
        # user's workflow makes after us.
        self.root.function_id = max(self.root.function_id, step_id)

    def _reserve(self) -> StepReservation:
        with self._lock:
            self._advance(self._last_id)
            with using_context(self.root):
                reservation = DBOS.reserve_step()
            self._last_id = reservation.step_id
            return reservation

    def pin(self, scope: Scope, ids: int) -> int:
        """Step ids for a DBOS operation that user code makes in `scope`; the same on recovery.

        Writes one small row that says which ids are taken, then leaves them to DBOS.

        Args:
            scope: Where the operation happens.
            ids: How many consecutive ids it needs.

        Returns:
            The first of them.
        """
        call = Call(_names.PIN, kind="pin")
        name, entry = self._claim(scope, call)
        if entry is not None:
            return entry.step_id + 1
        with self._lock:
            reservation = self._reserve()
            for _ in range(ids):
                last = self._reserve()
            if last.step_id != reservation.step_id + ids:
                self.fail(
                    ConcurrentRunError(
                        f"Run {self.run_id}: a DBOS step was started outside {scope.path!r} while "
                        "a run was open in the same workflow. Await the run first."
                    )
                )
        try:
            payload = pin(call, ids)
            self._write(reservation, name, PLAIN, lambda: payload)
        finally:
            self._done(scope, name)
        return int(reservation.step_id) + 1

    def check_pinned(self, step_id: int, step_name: str) -> None:
        """Stop the run if the pinned `step_id` was recorded by a step of another name."""
        recorded = self._foreign.get(step_id)
        if recorded is not None and recorded != step_name:
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
        if in_event_loop():
            return off_the_loop(lambda: self.run(scope, call, function))
        name, entry = self._claim(scope, call)
        if entry is not None:
            return cast(T, self._replay(entry, call))
        try:
            body = self._body(name, call, function)
            payload = self._write(self._reserve(), name, call.config, body)
        finally:
            self._done(scope, name)
        return cast(T, self._outcome(name, payload, call))

    async def arun(self, scope: Scope, call: Call, function: Callable[[], Awaitable[T]]) -> T:
        """As `run`, for async code."""
        name, entry = self._claim(scope, call)
        if entry is not None:
            return cast(T, self._replay(entry, call))
        try:
            payload = await self._awrite(name, call.config, self._abody(name, call, function))
        finally:
            self._done(scope, name)
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
        name, entry = self._claim(scope, call)
        if entry is not None:
            self._pass_over(f"{name}/")
            return cast(T, self._replay(entry, call))
        try:
            with Scope(self, name, ordered=ordered).entered():
                started = time.time()
                try:
                    value = function()
                except Exception as error:
                    self.raise_if_over()
                    payload = failure(call, error, seconds=time.time() - started)
                else:
                    payload = success(call, value, seconds=time.time() - started)
            self._write(self._reserve(), name, PLAIN, lambda: payload)
        finally:
            self._done(scope, name)
        return cast(T, self._outcome(name, payload, call))

    def _pass_over(self, prefix: str) -> None:
        """Count what the recorded calls under `prefix` used, without replaying them."""
        for name, entry in self._entries.items():
            if name.startswith(prefix) and entry.is_readable and not entry.claimed:
                entry.claimed = True
                llm = self.llms.get(entry.what)
                extra = entry.payload().get("extra")
                if llm is not None and extra is not None:
                    llm(_codec.decode(extra))

    def _done(self, scope: Scope, name: str) -> None:
        with self._lock:
            place = self._places[scope.path]
            if place.running == name:
                place.running = None

    def _replay(self, entry: Entry, call: Call) -> Any:
        try:
            changed = entry.changes(call)
            if changed and not self._drift_told:
                self._drift_told = True
                logger.warning(
                    "Run %s: %s was recorded with other %s. The recorded outcome is used; calls "
                    "not recorded yet are made with the new code.",
                    self.run_id,
                    entry.name,
                    " and ".join(changed),
                )
            payload = entry.payload()
        except JournalCorruptError as error:
            self.fail(error)
        self.replayed[entry.kind] += 1
        if call.restore is not None and "extra" in payload:
            call.restore(_codec.decode(payload["extra"]))
        return self._outcome(entry.name, payload, call)

    def _outcome(self, name: str, payload: dict[str, Any], call: Call) -> Any:
        try:
            outcome = call.read(name, payload)
        except Exception as error:
            self.fail(error)
        if isinstance(outcome.error, Exception):
            raise outcome.error
        return outcome.value

    # Writing -----------------------------------------------------------------

    def _body(self, name: str, call: Call, function: Callable[[], Any]) -> Callable[[], Any]:
        if inspect.iscoroutinefunction(function):
            return self._abody(name, call, function)
        if call.config.supervised:
            # DBOS can only watch async code; the thread is left behind when time is up.
            return self._abody(name, call, lambda: asyncio.to_thread(function))

        def body() -> dict[str, Any]:
            started = time.time()
            with inside_call(OpenCall(self.run_id, name)), user_code():
                try:
                    value = function()
                except Exception as error:
                    if not _may_retry(call.config) or not _wanted(call.config, error):
                        return failure(call, error, seconds=time.time() - started)
                    time.sleep(_extra_wait(call.config, error))
                    raise
                return success(call, value, seconds=time.time() - started)

        return body

    def _abody(
        self, name: str, call: Call, function: Callable[[], Awaitable[Any]]
    ) -> Callable[[], Any]:
        async def body() -> dict[str, Any]:
            started = time.time()
            with inside_call(OpenCall(self.run_id, name)), user_code():
                try:
                    value = await _within(call.config.timeout_seconds, name, function())
                except Exception as error:
                    wanted = _may_retry(call.config) and _wanted(call.config, error)
                    if inspect.isawaitable(wanted):
                        wanted = await wanted
                    if not wanted:
                        return failure(call, error, seconds=time.time() - started)
                    await asyncio.sleep(_extra_wait(call.config, error))
                    raise
                return success(call, value, seconds=time.time() - started)

        return body

    def _write(
        self, reservation: StepReservation, name: str, config: StepConfig, body: Callable[[], Any]
    ) -> dict[str, Any]:
        if in_event_loop():
            return off_the_loop(lambda: self._write(reservation, name, config, body))
        try:
            with portable_row():
                return cast(dict[str, Any], reservation.run(config.step_options(name), body))
        except Exception as error:
            self.fail(error)
        except BaseException as error:
            self.latch(error)
            raise

    async def _awrite(
        self, name: str, config: StepConfig, body: Callable[[], Any]
    ) -> dict[str, Any]:
        reservation = self._reserve()
        try:
            with portable_row():
                options = config.step_options(name)
                return cast(dict[str, Any], await reservation.run_async(options, body))
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
        with self._lock:
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

    def is_recorded(self, scope: Scope, what: str) -> bool:
        """Whether the next `what` of an ordered `scope` will be answered from the record."""
        return bool(self._places[scope.path].recorded.get(what))

    def leave(self, path: str) -> None:
        """The work under `path` is done: DBOS's counter moves past everything recorded there."""
        with self._lock:
            inside = (e.last_id for n, e in self._entries.items() if n.startswith(f"{path}/"))
            self._advance(max(inside, default=0))

    def close(self) -> None:
        self._closed = True


def _may_retry(config: StepConfig) -> bool:
    status = DBOS.step_status
    attempt = (status.current_attempt or 0) if status else 0
    return attempt + 1 < config.attempts


def _wanted(config: StepConfig, error: Exception) -> Any:
    return True if config.should_retry is None else config.should_retry(error)


def _extra_wait(config: StepConfig, error: Exception) -> float:
    """Seconds to wait on top of the backoff that DBOS will wait, so that the longer one wins."""
    status = DBOS.step_status
    attempt = (status.current_attempt or 0) if status else 0
    return max(0.0, retry_after(error) - config.wait_before(attempt + 1))


async def _within(limit: float | None, name: str, work: Awaitable[T]) -> T:
    if limit is None:
        return await work
    try:
        return await asyncio.wait_for(work, limit)
    except asyncio.TimeoutError:
        raise DBOSStepTimeoutError(name, limit) from None
