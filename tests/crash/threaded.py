"""A program that starts a thread when it is imported, as some clients do."""

from __future__ import annotations

import threading

from crash.application import native_postman as native_postman

alive = threading.Event()
"""Set by the thread, so a process that was forked without it is found out."""

_asked = threading.Event()


def _answer() -> None:
    while True:
        _asked.wait()
        _asked.clear()
        alive.set()


threading.Thread(target=_answer, daemon=True).start()


def ask() -> None:
    """The setup of a process."""
    _asked.set()
    assert alive.wait(30), "the thread of this module is gone"
