"""A server of somebody else's, from which the application's code is called."""

from __future__ import annotations

from collections.abc import Callable


def handle(request: Callable[[], None]) -> None:
    request()
