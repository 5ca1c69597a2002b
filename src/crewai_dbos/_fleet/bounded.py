"""Calls of the database with a time limit: one that is frozen raises nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NoAnswer(TimeoutError):
    """The database has not answered in so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer in {seconds:g} s")
        self.seconds = seconds


def within(seconds: float, function: Callable[[], T]) -> T:
    """What `function` returns.

    Raises:
        NoAnswer: It takes longer. It is left behind, on a thread that keeps no process alive.
    """
    returned: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            returned.append(function())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name="crewai-dbos-lease", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not returned:
        raise NoAnswer(seconds)
    return returned[0]
