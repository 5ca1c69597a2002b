"""Ways to begin a run other than a kickoff that is waited for, for crash tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Calling:
    """Begins a run as `call` does; found again as that of `durable`."""

    def __init__(self, durable: Any, call: Callable[..., Any]) -> None:
        self._call = call
        self.retrieve = durable.retrieve

    def __call__(self, **inputs: Any) -> Any:
        return self._call(**inputs)


def streaming(durable: Any) -> Calling:
    """Kicks `durable` off, whose ``stream`` is on, and reads what comes to the end."""

    def iterate(**inputs: Any) -> Any:
        stream = durable.kickoff(**inputs)
        for _ in stream:
            pass
        return stream.result

    return Calling(durable, iterate)
