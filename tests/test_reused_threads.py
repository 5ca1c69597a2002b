"""Threads that do one call after another."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from crewai_dbos import _reused_threads
from crewai_dbos._reused_threads import run_on_thread


def begun(function: Callable[[], Any]) -> Callable[[], Any]:
    """Have `function` called on a thread; what is returned waits for its result."""
    ended, result = threading.Event(), []

    def work() -> Callable[[], None]:
        result.append(function())
        return ended.set

    run_on_thread(work, contextvars.copy_context())

    def wait() -> Any:
        assert ended.wait(30)
        return result[0]

    return wait


def test_calls_after_one_another_share_a_thread() -> None:
    threads = set()
    for _ in range(10):
        threads.add(begun(threading.get_ident)())
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_calls_at_the_same_time_have_a_thread_each() -> None:
    meeting = threading.Barrier(5, timeout=30)
    waits = [begun(lambda: (meeting.wait(), threading.get_ident())[1]) for _ in range(5)]
    assert len({wait() for wait in waits}) == 5


def test_what_a_call_has_held_is_let_go() -> None:
    class Large:
        pass

    held = Large()
    seen = weakref.ref(held)
    begun(lambda kept=held: kept is None)()
    del held
    begun(threading.get_ident)()  # by the same thread, which is done with the first one
    gc.collect()
    assert seen() is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_call_that_raises_takes_its_thread_along() -> None:
    thread: list[threading.Thread] = []

    def fail() -> Callable[[], None]:
        thread.append(threading.current_thread())
        raise RuntimeError("of the call")

    run_on_thread(fail, contextvars.copy_context())
    while not thread:
        threading.Event().wait(0.01)
    thread[0].join(30)
    assert not thread[0].is_alive()
    assert begun(lambda: "another")() == "another"


def test_a_call_finds_no_event_loop_of_another() -> None:
    """Code that runs `asyncio.get_event_loop()` on a thread makes a loop, and closes it."""

    def own_loop() -> str:
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError:
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
        try:
            return loop.run_until_complete(asyncio.sleep(0, "done"))
        except RuntimeError as error:
            return str(error)
        finally:
            loop.close()

    assert [begun(own_loop)() for _ in range(3)] == ["done"] * 3


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reused_threads, "_IDLE", 0.01)
    thread = begun(threading.current_thread)()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.crash
def test_a_forked_process_has_threads_of_its_own() -> None:
    begun(threading.get_ident)()
    child = os.fork()
    if child == 0:
        os._exit(0 if begun(lambda: "here")() == "here" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
