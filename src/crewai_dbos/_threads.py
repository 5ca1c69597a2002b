"""Blocking code and event loops."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

T = TypeVar("T")


def in_event_loop() -> bool:
    """Whether this thread is running an event loop right now."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def in_main_thread() -> bool:
    """Whether this is the thread that Python delivers signals to."""
    return threading.current_thread() is threading.main_thread()


_acting = threading.local()


def act_for(thread: int) -> None:
    """This thread does what that one waits for, and counts as that one from here on."""
    _acting.thread = thread


@dataclass(frozen=True)
class ThreadOrTask:
    """What runs one thing after another: a thread, or an asyncio task on it."""

    thread: int
    task: asyncio.Task[Any] | None

    NOBODY: ClassVar[ThreadOrTask]

    @classmethod
    def here(cls) -> ThreadOrTask:
        task = asyncio.current_task() if in_event_loop() else None
        return cls(getattr(_acting, "thread", threading.get_ident()), task)


ThreadOrTask.NOBODY = ThreadOrTask(0, None)


async def on_a_thread(function: Callable[[], T]) -> T:
    """Run blocking `function`, in the same context, on a thread of its own; wait for it.

    Unlike `asyncio.to_thread`, a function that is not waited for any more takes no place in a pool
    that others wait for, nor does it keep the process alive.
    """
    ended: _Ended[T] = _Ended()

    def work() -> None:
        with ended.by():
            ended.result = function()

    start_thread(work)
    return await ended.future


async def on_thread_of_loop(function: Callable[..., T], *args: Any) -> T:
    """As `asyncio.to_thread`, and the pool is given the context as what is run.

    So `_carrying` sees that the job has one, and lends it no other.
    """
    run = contextvars.copy_context().run
    return await asyncio.get_running_loop().run_in_executor(None, run, function, *args)


class WorkEnded(BaseException):
    """Carries what work on a loop of its own has raised, and what would end its caller's loop.

    Attributes:
        error: A `SystemExit`, a `KeyboardInterrupt`, or a `CancelledError` that nobody outside
            has asked for.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


Abandoning = Callable[[Callable[[BaseException], None]], AbstractContextManager[Any]]


async def on_a_loop_of_its_own(
    work: Callable[[], Coroutine[Any, Any, T]],
    abandoning: Abandoning = lambda abandon: nullcontext(),
) -> T:
    """Run async `work`, in the same context, on a thread with an event loop of its own.

    It is cancelled with this call, which ends when it has ended.

    Args:
        abandoning: A block around the wait. It is given what ends that with an error, on any
            thread, while the work goes on.

    Raises:
        WorkEnded: It raised what would end the loop that runs here.
    """
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()
    ended: _Ended[T] = _Ended()
    cancelled = threading.Event()

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        started.set_result((asyncio.get_running_loop(), task))
        try:
            ended.result = await work()
        except asyncio.CancelledError as error:
            # What cancels all that is left on the loop may be a SystemExit that has ended it.
            if not cancelled.is_set():
                raise
            ended.settle(error)
        except (KeyboardInterrupt, SystemExit) as error:
            ended.settle(WorkEnded(error))
        except BaseException as error:
            ended.settle(error)
        else:
            ended.settle(None)

    def thread() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            ended.settle(WorkEnded(error))

    start_thread(thread)
    try:
        with abandoning(ended.settle):
            return await asyncio.shield(ended.future)
    except asyncio.CancelledError:
        cancelled.set()
        started.add_done_callback(_cancel)
        # anyio cancels again and again until the call has ended, which it has not before its work.
        while not ended.future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({ended.future})
        raise


def _cancel(started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]]) -> None:
    """Cancel a task that has started on the loop of another thread."""
    loop, task = started.result()
    with contextlib.suppress(RuntimeError):  # it has ended meanwhile
        loop.call_soon_threadsafe(task.cancel)


class _Ended(Generic[T]):
    """How work on another thread ended, for the loop that is running here."""

    result: T

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self._loop.create_future()

    @contextmanager
    def by(self) -> Iterator[None]:
        """The block does the work and sets `result`."""
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
        self.settle(error)

    def settle(self, error: BaseException | None) -> None:
        """The work has ended: with `error`, or with `result`. The first time counts."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._settle, error)

    def _settle(self, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(self.result)
        elif isinstance(error, asyncio.CancelledError):
            self.future.cancel()
        else:
            self.future.set_exception(error)


def start_thread(
    function: Callable[[], None],
    context: contextvars.Context | None = None,
    name: str = "crewai-dbos",
) -> None:
    """Run `function` on a thread of its own, which does not keep the process alive.

    Args:
        context: What it runs in; by default a copy of what is here.
    """
    if context is None:  # an empty one is false
        context = contextvars.copy_context()
    run = context.run
    threading.Thread(target=run, args=(function,), name=name, daemon=True).start()


def finished(result: Any) -> Any:
    """`result` of a function, awaited where no event loop runs if the function was async."""
    if not inspect.isawaitable(result):
        return result

    async def wait() -> Any:
        return await result

    return off_the_loop(lambda: asyncio.run(wait()))


def off_the_loop(function: Callable[[], T]) -> T:
    """Run blocking `function`, in the same context, where no event loop runs; wait for it."""
    if not in_event_loop():
        return function()
    loop = asyncio.get_running_loop()

    def work() -> T:
        _waiting.set((*_waiting.get(), loop))
        return function()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(contextvars.copy_context().run, work).result()


_waiting: contextvars.ContextVar[tuple[asyncio.AbstractEventLoop, ...]] = contextvars.ContextVar(
    "crewai_dbos_waiting", default=()
)


def waits_for_this(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether `loop` stands still until what is done here has been done."""
    return loop in _waiting.get()
