"""Having DBOS record an entry: the only module that makes a step of one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dbos import StepReservation

from crewai_dbos._dbos_seam.serializer import portable_row, write_portable_rows
from crewai_dbos._journal.config import StepConfig
from crewai_dbos._journal.latch import Latch
from crewai_dbos._journal.payload import Payload, opened, redacted, sealed
from crewai_dbos._signals import ControlSignal
from crewai_dbos._stored.redaction import Redact
from crewai_dbos._threads import in_event_loop, off_the_loop


class Writer:
    """Writes the entries of one execution of a workflow.

    Args:
        latch: Whatever goes wrong in writing ends the run.
        key_id: The id of the key of digests in names, which each entry has.

    Attributes:
        redact: What every text that is stored goes through.
    """

    def __init__(self, latch: Latch, key_id: str | None) -> None:
        self._latch = latch
        self._key_id = key_id
        self.redact: list[Redact] = []
        write_portable_rows()

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
        with self._latching():
            return opened(reservation.run(config.step_options(name), self._as_written(body)))

    async def awrite(
        self, reservation: StepReservation, name: str, config: StepConfig, body: Callable[[], Any]
    ) -> Payload:
        """As `write`, for async code."""
        with self._latching():
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
            return sealed(redacted(payload, self.redact), self._key_id)
        except Exception as error:  # of the user's function or serializer, and not of the call
            raise ControlSignal(error) from error

    @contextmanager
    def _latching(self) -> Iterator[None]:
        try:
            with portable_row():
                yield
        except Exception as error:
            self._latch.fail(error)
        except BaseException as error:
            self._latch.note(error)
            raise
