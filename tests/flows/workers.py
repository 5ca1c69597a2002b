"""Services as an application has them: one thread that asks the model for whoever calls."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from typing import Any

from crews.scenarios import model


def ask_model(text: str) -> str:
    return str(model().call(text))


Ask = Callable[[str], str]


@dataclass(order=True)
class Job:
    """An order that waits for its answer."""

    text: str
    answer: Future[str] = field(default_factory=Future, compare=False)

    def do(self, ask: Ask) -> None:
        try:
            self.answer.set_result(ask(self.text))
        except Exception as error:
            self.answer.set_exception(error)


class Worker:
    """One thread, started when it is first needed, that takes jobs from a queue.

    Args:
        jobs: The queue.
        ask: What it does with the text of a job.
    """

    def __init__(self, jobs: Any = None, ask: Ask = ask_model) -> None:
        self.jobs: Any = queue.Queue() if jobs is None else jobs
        self.thread: threading.Thread | None = None
        self._ask = ask
        self._starting = threading.Lock()

    def start(self) -> None:
        with self._starting:
            if self.thread is None:
                self.thread = self.made()
                self.thread.start()

    def made(self) -> threading.Thread:
        return threading.Thread(target=self.work, daemon=True)

    def work(self) -> None:
        while (job := self.next()) is not None:
            job.do(self._ask)
            del job

    def next(self) -> Job | None:
        job: Job | None = self.jobs.get()
        return job

    def put(self, job: Job | None) -> None:
        self.jobs.put(job)

    def __call__(self, text: str) -> str:
        job = Job(text)
        self.start()
        self.put(job)
        return job.answer.result(30)

    def stop(self) -> None:
        self.put(None)
        if self.thread is not None:
            self.thread.join(30)


class Subclassed(Worker):
    """The thread is an object of a class of its own, and asks itself for a while if none is due."""

    class Thread(threading.Thread):
        def __init__(self, worker: Worker) -> None:
            super().__init__(daemon=True)
            self.worker = worker

        def run(self) -> None:
            self.worker.work()

    def made(self) -> threading.Thread:
        return self.Thread(self)

    def next(self) -> Job | None:
        while True:
            try:
                job: Job | None = self.jobs.get(timeout=0.05)
                return job
            except queue.Empty:
                continue


class InOwnContext(Worker):
    """Whoever starts the thread gives it a copy of its context, as instrumented programs do."""

    def made(self) -> threading.Thread:
        return threading.Thread(target=copy_context().run, args=(self.work,), daemon=True)


class InPool(Worker):
    """The worker is a job of a pool that never ends."""

    def __init__(self) -> None:
        super().__init__()
        self._pool = ThreadPoolExecutor(1)

    def made(self) -> Any:
        return self

    def start(self) -> None:
        with self._starting:
            if self.thread is None:
                self.thread = threading.current_thread()
                self._pool.submit(self.work)

    def stop(self) -> None:
        self.put(None)
        self._pool.shutdown()


class Functions(Worker):
    """What is put on the queue are functions."""

    def work(self) -> None:
        while (do := self.jobs.get()) is not None:
            do()
            del do

    def __call__(self, text: str) -> str:
        answer: Future[str] = Future()

        def do() -> None:
            try:
                answer.set_result(self._ask(text))
            except Exception as error:
                answer.set_exception(error)

        self.start()
        self.jobs.put(do)
        return answer.result(30)


class Answers(Worker):
    """Texts are put on the queue, and the answers come through another."""

    def __init__(self) -> None:
        super().__init__()
        self._answers: queue.Queue[str] = queue.Queue()

    def work(self) -> None:
        while (text := self.jobs.get()) is not None:
            self._answers.put(self._ask(text))

    def __call__(self, text: str) -> str:
        self.start()
        self.jobs.put(text)
        return self._answers.get(timeout=30)


class Unhooked(Worker):
    """Jobs are handed over in a list that nobody but the application knows of."""

    def __init__(self, ask: Ask = ask_model) -> None:
        super().__init__(deque(), ask)
        self._due = threading.Condition()

    def next(self) -> Job | None:
        with self._due:
            while not self.jobs:
                self._due.wait()
            job: Job | None = self.jobs.popleft()
            return job

    def put(self, job: Job | None) -> None:
        with self._due:
            self.jobs.append(job)
            self._due.notify()


class InCallersContext(Unhooked):
    """As the message says: each job is run in the context of who hands it over."""

    def __call__(self, text: str) -> str:
        job, context = Job(text), copy_context()
        job.do = lambda ask, do=job.do: context.run(do, ask)  # type: ignore[method-assign]
        self.start()
        self.put(job)
        return job.answer.result(30)


class OnLoop:
    """An event loop on a thread, which does each call in a task of its own."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
            self.thread.start()

    def do(self, work: Coroutine[Any, Any, str]) -> str:
        self.start()
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def __call__(self, text: str) -> str:
        return self.do(self.ask(text))

    async def ask(self, text: str) -> str:
        return str(await model().acall(text))

    def stop(self) -> None:
        if self.loop is not None and self.thread is not None:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(30)
            self.loop.close()


class InTask(OnLoop):
    """A task on that loop that lives as long as the loop, and takes jobs from a queue."""

    task: asyncio.Task[None] | None = None
    jobs: asyncio.Queue[Job]

    async def ask(self, text: str) -> str:
        if self.task is None:
            self.jobs = asyncio.Queue()
            self.task = asyncio.create_task(self.work())
        job = Job(text)
        await self.jobs.put(job)
        return await asyncio.wrap_future(job.answer)

    async def work(self) -> None:
        while True:
            job = await self.jobs.get()
            try:
                job.answer.set_result(str(await model().acall(job.text)))
            except Exception as error:
                job.answer.set_exception(error)
            del job

    def stop(self) -> None:
        if self.task is not None and self.loop is not None:
            self.loop.call_soon_threadsafe(self.task.cancel)
        super().stop()


class Executor:
    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)

    def __call__(self, text: str) -> str:
        return self._pool.submit(ask_model, text).result(30)

    def stop(self) -> None:
        self._pool.shutdown()


class Pool:
    """A `ThreadPool`, made when it is first needed.

    Args:
        how: Its method.
    """

    def __init__(self, how: str) -> None:
        self._how = how
        self._pool: ThreadPool | None = None

    def __call__(self, text: str) -> str:
        if self._pool is None:
            self._pool = ThreadPool(1)
        work = getattr(self._pool, self._how)
        if self._how.startswith("apply"):
            done = work(ask_model, (text,))
        elif self._how.startswith("starmap"):
            done = work(ask_model, [(text,)])
        else:
            done = work(ask_model, [text])
        if self._how.endswith("async"):
            done = done.get(30)
        return str(done if self._how.startswith("apply") else next(iter(done)))

    def stop(self) -> None:
        if self._pool is not None:
            self._pool.terminate()


SERVICES: dict[str, Callable[[], Any]] = {
    "queue": Worker,
    "lifo": lambda: Worker(queue.LifoQueue()),
    "priority": lambda: Worker(queue.PriorityQueue()),
    "thread of a class": Subclassed,
    "in a context of its own": InOwnContext,
    "job of a pool": InPool,
    "functions": Functions,
    "answers through a queue": Answers,
    "in the caller's context": InCallersContext,
    "loop": OnLoop,
    "task": InTask,
    "executor": Executor,
    **{
        f"ThreadPool.{how}": lambda how=how: Pool(how)  # type: ignore[misc]
        for how in (
            "apply",
            "apply_async",
            "imap",
            "imap_unordered",
            "map",
            "map_async",
            "starmap",
            "starmap_async",
        )
    },
}
"""Each as an application makes it; all of them are told apart."""
