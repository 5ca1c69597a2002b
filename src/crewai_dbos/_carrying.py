"""Threads and jobs that a run starts are known to belong to it, as asyncio tasks are.

Without that a call on one of them would be made without anyone knowing that it belongs to a run.
crewAI, DBOS and the standard library have threads of their own, which serve everybody.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from crewai_dbos import _leases, _patches
from crewai_dbos._dbos_seam.errors import surviving
from crewai_dbos._main_functions import code_of, has_own_context, module_of

_MACHINERY = ("concurrent", "multiprocessing", "dbos")
"""Packages whose threads and jobs know for whom they work."""


@contextmanager
def carry_context() -> Iterator[None]:
    """Threads and jobs that are started in the block work in its place.

    Those of a pool do so until the run has ended, threads until the block has.
    """
    _patches.apply(_patches.THREADS)
    with _leases.lending(method=False):
        yield


@contextmanager
def method_at_work() -> Iterator[None]:
    """As `carry_context`; the block is a method of the user's."""
    _patches.apply(_patches.THREADS)
    with _leases.lending(method=True):
        yield


def starting(start: Callable[..., Any]) -> Callable[..., Any]:
    """`Thread.start`, which lends a thread that a run starts its place."""

    @functools.wraps(start)
    def start_in_place(thread: Any) -> None:
        term = _leases.term.get()
        if term is not None and _is_the_runs(thread):
            run, context = thread.run, contextvars.Context()
            context.run(_leases.begin_thread, term.lease())
            thread.run = lambda: context.run(run)
        start(thread)

    return start_in_place


def _is_the_runs(thread: Any) -> bool:
    target = getattr(thread, "_target", None)
    made_for = type(thread).run if target is None else target
    return not (_is_machinery(made_for) or has_own_context(target))


def _is_machinery(function: Any) -> bool:
    return module_of(function).partition(".")[0] in _MACHINERY


def submitting(submit: Callable[..., Any]) -> Callable[..., Any]:
    """`ThreadPoolExecutor.submit`, which lends a job of a run its place."""

    @functools.wraps(submit)
    def submit_in_place(pool: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        term = _leases.term.get()
        if term is None or has_own_context(function) or _is_machinery(function):
            return submit(pool, function, *args, **kwargs)
        context = _context_of_job(term, function, args)
        return submit(pool, context.run, function, *args, **kwargs)

    return submit_in_place


def mapping(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of `ThreadPool`, which lends the jobs of a run its place."""

    @functools.wraps(method)
    def map_in_place(pool: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
        term = _leases.term.get()
        if term is None:
            return method(pool, func, *args, **kwargs)
        context = _context_of_job(term, func, ())

        @functools.wraps(func)
        def job(*args: Any, **kwargs: Any) -> Any:
            # Whoever waits for the job would wait for ever.
            with surviving():
                return context.copy().run(func, *args, **kwargs)

        return method(pool, job, *args, **kwargs)

    return map_in_place


def _context_of_job(
    term: _leases.Term, function: Any, args: tuple[Any, ...]
) -> contextvars.Context:
    lease = term.run.lease(main=code_of(function, args), worker=False)
    context = contextvars.copy_context()
    context.run(_leases.begin_thread, lease)
    return context
