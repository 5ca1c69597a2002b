"""Threads that are used again: to start one costs more than the rest of a short call.

Unlike those of `concurrent.futures`, they do not keep the process alive, and there are as many as
are needed: a call that was left behind takes nobody's place.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

Work: TypeAlias = Callable[[], Callable[[], None]]
"""It returns what is to be called when its thread can be had again: that tells of its result."""

_Inbox: TypeAlias = "queue.SimpleQueue[Work]"

_IDLE = 5.0
"""Seconds after which a thread ends that has had nothing to do."""

_idle: deque[_Inbox] = deque()
"""Of the threads that have nothing to do. Who takes one out of it gives that thread something."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)


def run_on_thread(work: Work, context: contextvars.Context) -> None:
    """Begin `work` in `context` on another thread, and do not wait for it.

    Calls after one another are made on one thread. What one of them leaves in a `threading.local`
    another may find there.
    """
    try:
        inbox = _idle.pop()
    except IndexError:
        inbox = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(inbox,), name="crewai-dbos", daemon=True).start()
    inbox.put(partial(context.run, work))


def _serve(inbox: _Inbox) -> None:
    while (work := _next(inbox)) is not None:
        tell = work()
        asyncio.set_event_loop(None)  # one that the call has made for itself, and closed
        _idle.append(inbox)
        tell()
        del work, tell  # what they hold is not kept while the thread is idle


def _next(inbox: _Inbox) -> Work | None:
    try:
        return inbox.get(timeout=_IDLE)
    except queue.Empty:
        try:
            _idle.remove(inbox)
        except ValueError:
            return inbox.get()  # somebody took it just now
        return None
