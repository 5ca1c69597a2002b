"""A step of DBOS that is known not to be recorded, in one transaction.

`DBOS.run_step` makes two: it looks whether the step has a row, and whether its workflow was
cancelled, and it records the outcome. The journal has read the rows when it was opened, and sees in
other ways that a run is over. All else is done as DBOS does it, by its own means: what a step can
see of itself, spans, attempts and their log lines, and the transaction that records (`recording`).
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

from dbos import DBOS, StepOptions, StepReservation
from dbos._context import DBOSContext, EnterDBOSStepCtx, assert_current_dbos_context
from dbos._core import _supervise_step
from dbos._error import DBOSMaxStepRetriesExceeded
from dbos._outcome import Outcome
from dbos._serialization import DBOSPortableJSON

from crewai_dbos._dbos_seam.instance import launched_instance
from crewai_dbos._dbos_seam.recording import StepRow, record
from crewai_dbos._threads import on_thread_of_loop, waits_for_this

_LONGEST_WAIT = 3600.0
"""Seconds that DBOS waits before another attempt at most."""


BEGINS, ENDED, RECORDED = "begins", "ended", "recorded"

watchers: list[Callable[[str, str, int, str], None]] = []
"""Called with one of these and a step's run, id and name: by this the testing tools hear of it."""


def run_new_step(
    reservation: StepReservation, options: StepOptions, body: Callable[[], Any]
) -> Any:
    """What `body`, sync or async, returns at its last attempt: plain JSON, which is recorded.

    An error that it raises is not recorded. An async one runs on the loop that DBOS submits to, as
    it may use what belongs to that; where that loop waits for this call, on another.

    Args:
        reservation: The step's id.
        options: Of `DBOS.run_step`, less `should_retry` and `timeout_seconds`; `name` is among
            them.
    """
    step = _Step(reservation, options)
    if not inspect.iscoroutinefunction(body):
        return step.run(body)
    loops = step.dbos._background_event_loop
    for loop in (loops.target_loop(), loops._loop):
        if loop is not None and not waits_for_this(loop):
            return asyncio.run_coroutine_threadsafe(step.arun(body), loop).result()
    return asyncio.run(step.arun(body))


async def arun_new_step(
    reservation: StepReservation, options: StepOptions, body: Callable[[], Awaitable[Any]]
) -> Any:
    """As `run_new_step`, for async code on any loop."""
    return await _Step(reservation, options).arun(body)


class _Step:
    def __init__(self, reservation: StepReservation, options: StepOptions) -> None:
        reservation._claim()
        self.dbos = launched_instance()
        self._context: DBOSContext = reservation._step_ctx
        self._name = str(options["name"])
        self._retries = bool(options.get("retries_allowed"))
        self._attempts = options.get("max_attempts", 3)
        self._interval = options.get("interval_seconds", 1.0)
        self._rate = options.get("backoff_rate", 2.0)
        self._is_preemptible = bool(options.get("preemptible"))
        self._started_ms = int(time.time() * 1000)

    def run(self, body: Callable[[], Any]) -> Any:
        with self._entered():
            self._begin()
            output = self._attempted(body)()
            self._record(output)
        return output

    async def arun(self, body: Callable[[], Awaitable[Any]]) -> Any:
        # As DBOS does: the threads of a program's loop may all wait for such calls.
        await DBOS._configure_asyncio_thread_pool()
        with self._entered():
            self._begin()
            output = await self._attempted(self._supervised(body))()
            await on_thread_of_loop(self._record, output)
        return output

    def _entered(self) -> EnterDBOSStepCtx:
        attributes: Any = {"name": self._name, "operationType": "step"}
        return EnterDBOSStepCtx(attributes, self._context)

    def _begin(self) -> None:
        self._tell(BEGINS)
        self.dbos.logger.debug(f"Running step, id: {self._context.function_id}, name: {self._name}")

    def _supervised(self, body: Callable[[], Any]) -> Callable[[], Any]:
        if not self._is_preemptible:
            return body
        return functools.partial(
            _supervise_step,
            self.dbos,
            self._context.workflow_id,
            body,
            (),
            {},
            step_name=self._name,
            preemptible=True,
            timeout_seconds=None,
            shard_key=self._context.shard_key,
        )

    def _attempted(self, body: Callable[[], Any]) -> Any:
        """`body`, called again as long as it fails and may be."""
        if not self._retries:
            return body
        return Outcome.make(body).retry(
            self._attempts,
            self._wait,
            lambda attempts, errors: DBOSMaxStepRetriesExceeded(self._name, attempts, errors),
        )

    def _wait(self, attempt: int, error: BaseException) -> float:
        """Tell of a failed attempt; returns for how many seconds to wait before the next."""
        self.dbos.logger.warning(
            f"Step being automatically retried (attempt {attempt + 1} of {self._attempts})",
            exc_info=error,
        )
        span = assert_current_dbos_context().get_current_dbos_span()
        if span is not None:
            told: dict[str, Any] = {"error": str(error), "retryIntervalSeconds": self._interval}
            span.add_event(f"Step attempt {attempt} failed", told)
        return float(min(self._interval * self._rate**attempt, _LONGEST_WAIT))

    def _record(self, output: Any) -> None:
        context = self._context
        assert context.owner_xid is not None  # so DBOS has it, too
        row = StepRow(
            run_id=context.workflow_id,
            owner_xid=context.owner_xid,
            step_id=context.function_id,
            name=self._name,
            output=DBOSPortableJSON.serialize(output),
            serialization=DBOSPortableJSON.name(),
            started_ms=self._started_ms,
            ended_ms=int(time.time() * 1000),
        )
        self._tell(ENDED)
        record(self.dbos._sys_db, row)
        self._tell(RECORDED)

    def _tell(self, moment: str) -> None:
        for watch in watchers:
            watch(moment, self._context.workflow_id, self._context.function_id, self._name)
