"""What the tests of the journal share.

A test hands a plan to a workflow, then forks the run from its steps: what was recorded before the
fork is replayed, the rest is done anew.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from dbos import DBOS
from pydantic import BaseModel

from crewai_dbos import StepConfig
from crewai_dbos._journal.joining import joined
from support.entries import how_many
from support.runs import Plan, Work, every_step, fork, result, steps

work = Work()
call, acall = work.call, work.acall

QUICK = StepConfig(retries_allowed=True, max_attempts=3, interval_seconds=0.01)

only_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For what is none of the database's business."""


@DBOS.step()
def bare(what: str) -> str:
    return work.do(f"bare {what}")


@DBOS.step()
async def abare(what: str) -> str:
    await asyncio.sleep(0)
    return work.do(f"bare {what}")


@DBOS.workflow()
def child(what: str) -> str:
    return bare(f"of child {what}")


@DBOS.workflow()
async def achild(what: str) -> str:
    return await abare(f"of child {what}")


@DBOS.workflow()
def durable_child(what: str) -> str:
    with joined("inside"):
        return work.durably(what)


@DBOS.step()
def durable_bare(what: str) -> str:
    return f"bare of {work.durably(what)}"


class Pet(BaseModel):
    name: str
    tricks: list[str] = []


def thread(function: Callable[[], Any]) -> threading.Thread:
    """A thread that carries the run's context, as crewAI starts them."""
    return threading.Thread(target=contextvars.copy_context().run, args=(function,))


def in_threads(*functions: Callable[[], Any]) -> list[Any]:
    """What they return when they all run at the same time."""
    with ThreadPoolExecutor(len(functions)) as pool:
        contexts = [contextvars.copy_context() for _ in functions]
        pairs = zip(contexts, functions, strict=True)
        futures = [pool.submit(context.run, function) for context, function in pairs]
        return [future.result() for future in futures]


@contextmanager
def as_crewai_does() -> Iterator[None]:
    """What crewAI does with an error of a tool, a guardrail, a memory."""
    with suppress(Exception):
        yield


def swallowing(function: Callable[[], Any]) -> None:
    with suppress(BaseException):
        function()


def thread_without_context(function: Callable[[], Any]) -> None:
    lost = threading.Thread(target=swallowing, args=(function,))
    lost.start()
    lost.join()


class Turns:
    """Lets threads pass one after the other, in the order that was asked for."""

    def __init__(self, order: Any) -> None:
        self._order = list(order)
        self._changed = threading.Condition()

    @contextmanager
    def of(self, who: Any) -> Iterator[None]:
        with self._changed:
            assert self._changed.wait_for(lambda: self._order[0] == who, 30)
        try:
            yield
        finally:
            with self._changed:
                self._order.pop(0)
                self._changed.notify_all()


def failing(times: int, error: Exception | None = None) -> Callable[[], str]:
    """A function that fails so often before it works."""
    numbers = itertools.count(1)

    def attempt() -> str:
        if next(numbers) <= times:
            raise error or ValueError("not yet")
        return "done"

    return attempt


def replays_from_steps(run: str, expected: Any) -> None:
    """Forks from a third of the steps give what is recorded before, and do the rest anew, once.

    From every step in ``make every-moment``.
    """
    recorded = {step["function_id"]: repr(step["output"]) for step in steps(run)}
    every = every_step(run)
    for step in sorted({*every[:: how_many(3, 1)], every[-1]}):
        kept = " ".join(output for id, output in recorded.items() if id < step)
        work.done.clear()
        again = fork(run, step)
        assert shape(again) == shape(expected), f"from step {step}"
        for before, now in zip(texts(expected), texts(again), strict=True):
            if re.search(rf"'{before}'", kept):
                assert now == before, f"from step {step}"
        assert work.done.total() == sum(text not in texts(expected) for text in texts(again))
    assert again == expected


def texts(value: Any) -> list[str]:
    """All texts in it that tell which time something was done."""
    if isinstance(value, str):
        return [value] if value[-1:].isdigit() else []
    return [text for item in value for text in texts(item)] if isinstance(value, list) else []


def shape(value: Any) -> Any:
    """The value without the numbers that say which time something was done."""
    if isinstance(value, str):
        return value.rstrip("0123456789")
    if isinstance(value, (list, tuple)):
        return [shape(item) for item in value]
    return value


def operations(enter: Any) -> dict[str, Callable[[], Any]]:
    return {
        "a step": lambda: bare("x"),
        "a sleep": lambda: DBOS.sleep(0.001),
        "an event": lambda: DBOS.set_event("key", "value"),
        "a sent message": lambda: DBOS.send(str(DBOS.workflow_id), "hello", "topic"),
        "a message that does not come": lambda: DBOS.recv("other topic", timeout_seconds=0),
        "a child": lambda: child("x"),
        "a started child": lambda: result(DBOS.start_workflow(child, "x")),
        "a transaction": lambda: enter("x"),
    }


def calling(names: str, then: str = "") -> Plan:
    def plan() -> list[Any]:
        with joined("work") as scope:
            got = [call(scope, name) for name in names]
        return [*got, *(bare(name) for name in then)]

    return plan
