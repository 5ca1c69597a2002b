"""A call with recorded calls inside, as it is made."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from crewai_dbos._journal.call import Call
from crewai_dbos._journal.open_calls import OpenCall
from crewai_dbos._journal.payload import Payload, failure, success


class Group:
    """How such a call goes.

    Args:
        run_id: Of the run.
        name: Its name.
        call: What is called.

    Attributes:
        opened: The call, for what is inside.
        payload: What is stored of it, once it has ended.
        raised: The error that it ended with, if it did.
    """

    payload: Payload

    def __init__(self, run_id: str, name: str, call: Call) -> None:
        self.opened = OpenCall(run_id, name)
        self.raised: list[Exception] = []
        self._call = call
        self._started = time.time()

    def seconds(self) -> float:
        """For how long it has been made."""
        return time.time() - self._started

    def returned(self, value: Any) -> None:
        self.payload = success(self._call, value, seconds=self.seconds(), used=self.opened.used)

    def failed(self, error: Exception, secrets: Collection[str]) -> None:
        self.raised.append(error)
        self.payload = failure(
            self._call, error, seconds=self.seconds(), secrets=secrets, used=self.opened.used
        )

    async def apayload(self) -> Payload:
        """`payload`, for `Writer.awrite`."""
        return self.payload
