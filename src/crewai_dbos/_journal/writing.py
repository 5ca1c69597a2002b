"""Having DBOS record an entry: the only module that makes a step of one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dbos import StepReservation

from crewai_dbos._dbos_seam.steps import arun_new_step, run_new_step
from crewai_dbos._journal.config import StepConfig
from crewai_dbos._journal.execution import Execution, Moment
from crewai_dbos._journal.payload import Payload, opened, redacted, sealed
from crewai_dbos._signals import ControlSignal
from crewai_dbos._stored.redaction import Redact
from crewai_dbos._threads import in_event_loop, off_the_loop


class Writer:
    """Writes the entries of one execution of a workflow.

    Args:
        execution: Whatever goes wrong in writing ends the run.
        key_id: The id of the key of digests in names, which each entry has.

    Attributes:
        redact: What every text that is stored goes through.
    """

    def __init__(self, execution: Execution, key_id: str | None) -> None:
        self._execution = execution
        self._key_id = key_id
        self.redact: list[Redact] = []

    def write(
        self, reservation: StepReservation, name: str, config: StepConfig, body: Callable[[], Any]
    ) -> Payload:
        """Run `body`, sync or async, as the step `name`, and store the payload it returns.

        Returns:
            The payload, as it was stored.

        Raises:
            ControlSignal: It could not be written, or DBOS has ended the run.
        """
        if in_event_loop():
            return off_the_loop(lambda: self.write(reservation, name, config, body))
        made: list[Moment] = []
        with self._latching():
            options = config.step_options(name)
            stored = run_new_step(reservation, options, self._as_written(body, made))
            self._execution.goes_on(made[-1])
            return opened(stored)

    async def awrite(
        self, reservation: StepReservation, name: str, config: StepConfig, body: Callable[[], Any]
    ) -> Payload:
        """As `write`, for async code."""
        made: list[Moment] = []
        with self._latching():
            options = config.step_options(name)
            stored = await arun_new_step(reservation, options, self._as_written(body, made))
            self._execution.goes_on(made[-1])
            return opened(stored)

    def _as_written(self, body: Callable[[], Any], made: list[Moment]) -> Callable[[], Any]:
        """`body` of a step, whose payload is returned as it is stored.

        Args:
            made: Gets the moment before it is stored, which only an execution does whose run it is.
        """
        if not inspect.iscoroutinefunction(body):
            return lambda: self._sealed(body(), made)

        async def awritten() -> Payload:
            return self._sealed(await body(), made)

        return awritten

    def _sealed(self, payload: Payload, made: list[Moment]) -> Payload:
        try:
            stored = sealed(redacted(payload, self.redact), self._key_id)
        except Exception as error:  # of the user's function or serializer, and not of the call
            raise ControlSignal(error) from error
        made.append(Moment.now())
        return stored

    @contextmanager
    def _latching(self) -> Iterator[None]:
        latch = self._execution.latch
        try:
            yield
        except Exception as error:
            latch.fail(error)
        except BaseException as error:
            latch.note(error)
            raise
