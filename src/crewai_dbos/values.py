"""The clock, chance and anything else that differs each time, recorded.

In a method of a `DBOSFlow`, in a tool, a callback or a workflow of your own these return on
recovery what they returned at first. Outside a run they are what they are called after.
"""

from __future__ import annotations

import datetime as _datetime
import inspect
import random as _random
import uuid as _uuid
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from crewai_dbos import _tracebacks
from crewai_dbos._functions import name_of
from crewai_dbos._journal import joining, run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._stored import names
from crewai_dbos._threads import finished
from crewai_dbos.errors import ConcurrentRunError

P = ParamSpec("P")
T = TypeVar("T")


def now(tz: _datetime.tzinfo | None = _datetime.timezone.utc) -> _datetime.datetime:
    """The time, in `tz`; with None the local time, without a zone.

    Example::

        from crewai_dbos import now

        due = now().replace(hour=17, minute=0)
    """
    return _recorded(names.NOW, lambda: _datetime.datetime.now(tz))


def uuid4() -> _uuid.UUID:
    """A random UUID.

    Example::

        from crewai_dbos import uuid4

        invoice = f"invoice-{uuid4()}"
    """
    return _recorded(names.UUID4, _uuid.uuid4)


def random() -> float:
    """A random number from 0 up to, but not including, 1.

    Example::

        from crewai_dbos import random

        variant = "short" if random() < 0.5 else "long"
    """
    return _recorded(names.RANDOM, _random.random)


def step(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``function(*args, **kwargs)``, which is not called again once it has returned.

    Calls on several threads at the same time, or in several asyncio tasks, are told apart by their
    arguments. Of an object without a ``__repr__`` or ``__str__`` only the class counts: pass what
    differs as a text or a number.

    It is called without ``await``, in async code too, where nothing else goes on meanwhile. There
    ``await asyncio.to_thread(step, function, ...)`` does the same on a thread.

    Args:
        function: Sync or async; an async one is waited for here. Its name is stored with the run.
        args: Its arguments.
        kwargs: Its arguments by name. For retries decorate `function` with ``@DBOS.step(...)``
            instead.

    Returns:
        A copy of what it returned, which has to have a JSON form: of an HTTP request its text or
        its status, and not the response.

    Raises:
        UnstorableValueError: What it returned has none.
        Exception: What it raised; not called again either.

    Example::

        from pathlib import Path

        from crewai.flow.flow import Flow, start
        from crewai_dbos import DBOSFlow, step

        def archive(text: str) -> int:
            return Path("archive.txt").write_text(text)

        class Archive(Flow):
            @start()
            def keep(self) -> int:
                return step(archive, "Ticket 7 is answered.")

        DBOSFlow(flow_name="archive", orig_flow=Archive).kickoff()
    """
    scope = run_scope.enclosing()

    def work() -> T:
        return cast(T, finished(function(*args, **kwargs)))

    if scope is None:
        return work()
    name = name_of(inspect.unwrap(function) if inspect.isroutine(function) else function)
    call = Call(names.step(name), kind="step", request={"arguments": [args, kwargs]})
    try:
        with joining.sparing_worker():
            return scope.run(call, work)
    except Exception as error:
        raise _tracebacks.shortened(error)  # noqa: B904


def _recorded(what: str, function: Callable[[], T]) -> T:
    scope = run_scope.enclosing()
    if scope is None:
        return function()
    with joining.sparing_worker():
        if not scope.place.is_alone_here():
            scope.fail(
                ConcurrentRunError(
                    f"Run {scope.run_id}: {scope.path} asked for {what}() on another "
                    "thread or in another asyncio task than its own, where only their order would "
                    "tell one from the other after a crash. Ask before you start them, and pass "
                    "the value on."
                )
            )
        return scope.run(Call(what, kind="value"), function)
