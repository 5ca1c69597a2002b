"""What DBOS runs as a step: one attempt at a call, and whether its failure is final."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dbos import DBOS

from crewai_dbos._dbos_seam.errors import DBOSStepTimeoutError
from crewai_dbos._journal.background import collecting
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.config import StepConfig
from crewai_dbos._journal.in_flight import InFlight
from crewai_dbos._journal.open_calls import OpenCall, inside_call
from crewai_dbos._journal.payload import Payload, failure, success
from crewai_dbos._journal.retry import retry_after
from crewai_dbos._threads import finished, on_a_thread

T = TypeVar("T")


@dataclass(frozen=True)
class Attempt:
    """Makes bodies of a DBOS step, which return the payload of an entry.

    A failure that is final is a payload too. DBOS sees only those that it is to retry.

    Attributes:
        opened: The call, for what it does to find itself in.
        call: What is called.
        secrets: Texts that must not be stored if it fails.
        in_flight: Leaves it when the run is over.
        raised: The error that it has failed with for good, with its traceback.
    """

    opened: OpenCall
    call: Call
    secrets: Collection[str]
    in_flight: InFlight
    raised: list[Exception] = field(default_factory=list)

    def of(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """A body that calls `function`, sync or async."""
        if inspect.iscoroutinefunction(function):
            return self.of_async(function)
        if self.call.config.supervised:
            # DBOS can only watch async code; the thread is left behind when time is up.
            return self.of_async(lambda: on_a_thread(function))
        # Other sync code may be made for the thread that it is called on.
        leaves = self.call.kind == "llm"

        def body() -> dict[str, Any]:
            self.in_flight.execution.check()
            started = time.time()
            with inside_call(self.opened), collecting() as left:
                try:
                    try:
                        value = self.in_flight.waiting_for(function) if leaves else function()
                    finally:
                        left.wait()
                except Exception as error:
                    if not self._may_retry() or not finished(self._wanted(error)):
                        return self._failed(error, started)
                    self.in_flight.sleep(_extra_wait(self.call.config, error))
                    raise
                return self._returned(value, started)

        return body

    def of_async(self, function: Callable[[], Awaitable[Any]]) -> Callable[[], Any]:
        """A body that awaits `function`, for no longer than the call's time limit."""
        limit = self.call.config.timeout_seconds
        stays = self.call.kind == "person"  # whose answer is looked for elsewhere

        async def body() -> dict[str, Any]:
            await self.in_flight.execution.acheck()
            started = time.time()
            with inside_call(self.opened), collecting() as left:
                try:
                    try:
                        work = _within(limit, self.opened.name, function())
                        value = await (work if stays else self.in_flight.awaiting(work))
                    finally:  # which the time limit is not for
                        await left.await_end()
                except Exception as error:
                    wanted = self._may_retry() and self._wanted(error)
                    if inspect.isawaitable(wanted):
                        wanted = await wanted
                    if not wanted:
                        return self._failed(error, started)
                    wait = asyncio.sleep(_extra_wait(self.call.config, error))
                    await self.in_flight.awaiting(wait)
                    raise
                return self._returned(value, started)

        return body

    def _returned(self, value: Any, started: float) -> dict[str, Any]:
        seconds = time.time() - started
        return _counted(success(self.call, value, seconds=seconds, used=self.opened.used))

    def _failed(self, error: Exception, started: float) -> dict[str, Any]:
        seconds = time.time() - started
        self.raised.append(error)
        return _counted(
            failure(self.call, error, seconds=seconds, secrets=self.secrets, used=self.opened.used)
        )

    def _may_retry(self) -> bool:
        return _attempts_before() + 1 < self.call.config.attempts

    def _wanted(self, error: Exception) -> Any:
        should_retry = self.call.config.should_retry
        return True if should_retry is None else should_retry(error)


def _counted(payload: Payload) -> Payload:
    """`payload` of the attempt that is made here; it says which it is, if not the first."""
    before = _attempts_before()
    return {**payload, "attempts": before + 1} if before else payload


def _attempts_before() -> int:
    status = DBOS.step_status
    return (status.current_attempt or 0) if status else 0


def _extra_wait(config: StepConfig, error: Exception) -> float:
    """Seconds to wait on top of the backoff that DBOS will wait, so that the longer one wins."""
    return max(0.0, retry_after(error) - config.wait_before(_attempts_before() + 1))


async def _within(limit: float | None, name: str, work: Awaitable[T]) -> T:
    if limit is None:
        return await work
    task = asyncio.ensure_future(work)
    try:
        # Not wait_for, which can't tell its own timeout from one that `work` raises.
        await asyncio.wait({task}, timeout=limit)
        if task.done():
            return task.result()
    finally:
        task.cancel()
    raise DBOSStepTimeoutError(name, limit)
