"""Threads and jobs that a method starts for itself, and what else they share with others."""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
from crewai import Crew
from crewai.flow.flow import Flow, listen, start
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSFlow, LostContextError, step
from crewai_dbos.testing import Request
from crews.scenarios import agent, answer, task
from flows.scenarios import echo
from flows.test_worker_threads import Question, answers, asked
from flows.workers import ask_model
from support import calls
from support.databases import some_here
from support.names import unique
from support.permits import Permits
from support.replays import check_forks
from support.serving import Serve

Ask = Callable[[str], Any]


def collected(start: Callable[[Ask], None]) -> Callable[[str], list[str]]:
    """What the threads have heard that `start` has started, and has waited for."""

    def ask(text: str) -> list[str]:
        heard: list[str] = []
        start(lambda part: heard.append(ask_model(f"{text} {part}")))
        return sorted(heard)

    return ask


def started(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def threads(ask: Ask) -> None:
    started(*(threading.Thread(target=ask, args=(part,)) for part in ("one", "two")))


class Asking(threading.Thread):
    def __init__(self, ask: Ask, part: str) -> None:
        super().__init__()
        self._ask, self._part = ask, part

    def run(self) -> None:
        self._ask(self._part)


def of_a_class(ask: Ask) -> None:
    started(Asking(ask, "one"), Asking(ask, "two"))


def nested(ask: Ask) -> None:
    started(threading.Thread(target=threads, args=(ask,)))


def timer(ask: Ask) -> None:
    started(threading.Timer(0.01, ask, ("later",)))


def job_of_a_thread(ask: Ask) -> None:
    def submit() -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(ask, ("one", "two")))

    started(threading.Thread(target=submit))


def thread_of_a_job(ask: Ask) -> None:
    with ThreadPoolExecutor() as pool:
        pool.submit(threads, ask).result()


def thread_pool(ask: Ask) -> None:
    with ThreadPool(2) as pool:
        pool.map(ask, ("one", "two"))


def consumers(ask: Ask) -> None:
    parts: queue.Queue[str | None] = queue.Queue()

    def consume() -> None:
        while (part := parts.get()) is not None:
            ask(part)

    for part in ("one", "two", "three", None, None):
        parts.put(part)
    started(threading.Thread(target=consume), threading.Thread(target=consume))


def crawlers(ask: Ask) -> None:
    """Jobs put others into the queue that they came from."""
    parts: queue.Queue[int] = queue.Queue()

    def crawl() -> None:
        while (part := parts.get()) >= 0:
            ask(f"page {part}")
            if part < 2:
                parts.put(part + 1)
            parts.task_done()

    crawler = threading.Thread(target=crawl)
    crawler.start()
    parts.put(0)
    parts.join()
    parts.put(-1)
    crawler.join()


def loop_of_a_thread(ask: Ask) -> None:
    async def both() -> None:
        await asyncio.gather(*(asyncio.to_thread(ask, part) for part in ("one", "two")))

    started(threading.Thread(target=lambda: asyncio.run(both())))


def executor_of_a_loop(ask: Ask) -> None:
    async def both() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(None, ask, part) for part in ("one", "two")))

    asyncio.run(both())


@pytest.mark.some_entries
@pytest.mark.parametrize(
    "start_them",
    [
        threads,
        of_a_class,
        nested,
        timer,
        job_of_a_thread,
        thread_of_a_job,
        thread_pool,
        consumers,
        crawlers,
        loop_of_a_thread,
        executor_of_a_loop,
    ],
)
def test_all_that_a_method_waits_for_is_recorded(
    start_them: Callable[[Ask], None], serve: Serve
) -> None:
    server = serve()
    flow = asking(collected(start_them))
    run = flow.start({"text": "A"})
    heard = run.get_result()
    assert heard
    assert sorted(answers(run.workflow_id)) == heard
    check_forks(run.workflow_id, server, lambda fork: flow.retrieve(fork).get_result(), heard)


def asking(ask: Callable[[str], Any]) -> DBOSFlow:
    class Method(Flow[Question]):
        @start()
        def ask(self) -> Any:
            return ask(self.state.text)

    return DBOSFlow(flow_name=unique("method"), orig_flow=Method)


@pytest.mark.some_entries
def test_a_thread_that_kicks_off_a_crew(serve: Serve) -> None:
    server = serve(answer)

    def ask(text: str) -> list[str]:
        said: list[str] = []

        def work() -> None:
            clerk = agent("Clerk")
            said.append(str(Crew(agents=[clerk], tasks=[task(text, clerk)]).kickoff()))

        started(threading.Thread(target=work))
        return said

    flow = asking(ask)
    run = flow.start({"text": "A"})
    assert run.get_result() == ["Clerk on A"]
    check_forks(
        run.workflow_id, server, lambda fork: flow.retrieve(fork).get_result(), ["Clerk on A"]
    )


def test_tokens_that_a_thread_uses_are_counted_once(serve: Serve) -> None:
    serve()
    flow = asking(collected(threads))
    run = flow.start({"text": "A"})
    run.get_result()
    counted = flow.usage_metrics
    assert counted.successful_requests == 2
    last = DBOS.list_workflow_steps(run.workflow_id)[-1]["function_id"]
    fork = DBOS.fork_workflow(run.workflow_id, last).get_workflow_id()
    flow.retrieve(fork).get_result()
    assert flow.usage_metrics == counted


# Queues that hold something else than jobs ---------------------------------------------------


SLOTS: queue.Queue[int] = queue.Queue()
SLOTS.put(1)

PERMITS = Permits(1)


def in_a_slot(text: str) -> str:
    slot = SLOTS.get()
    try:
        return ask_model(text)
    finally:
        SLOTS.put(slot)


def with_a_permit(text: str) -> str:
    with PERMITS.one():
        return ask_model(text)


@pytest.mark.parametrize(
    ("where", "asks"),
    some_here(
        product(("thread", "method", "pool"), (in_a_slot, with_a_permit)),
        [("thread", in_a_slot), ("method", with_a_permit), ("pool", in_a_slot)],
    ),
)
def test_a_permit_is_no_job_of_who_has_put_it_back(
    asks: Callable[[str], str], where: str, serve: Serve
) -> None:
    """Several tenants share few permits, and keep them while they ask the model."""
    waiting = threading.Barrier(3)
    serve()
    heard: dict[str, list[str]] = {}

    def ask(text: str) -> list[str]:
        waiting.wait(30)
        said: list[str] = []
        for round in range(3):
            work = lambda what=f"{text} {round}": said.append(asks(what))  # noqa: E731
            if where == "thread":
                started(threading.Thread(target=work))
            elif where == "pool":
                with ThreadPoolExecutor() as pool:
                    pool.submit(work).result()
            else:
                work()
        return said

    flow = asking(ask)

    def tenant(text: str) -> None:
        with SetWorkflowID(f"{flow.flow_name} {text}"):
            heard[text] = flow.kickoff({"text": text})

    def plain() -> None:
        heard["plain"] = ask("plain")

    started(
        threading.Thread(target=tenant, args=("A",)),
        threading.Thread(target=tenant, args=("B",)),
        threading.Thread(target=plain),
    )
    for text, said in heard.items():
        assert said == [f"<{text} {round}>" for round in range(3)]
    for text in "AB":
        assert answers(f"{flow.flow_name} {text}") == heard[text]


@pytest.mark.parametrize("where", ["main thread", "job", "handler"])
def test_who_reads_what_a_method_tells_makes_calls_of_its_own(where: str, serve: Serve) -> None:
    """As a web server does that streams how far a flow has come, and adds something to it."""
    server = serve()
    told: queue.Queue[str] = queue.Queue()
    added = threading.Event()

    def ask(text: str) -> str:
        told.put("half way")
        assert added.wait(30)
        return ask_model(text)

    flow = asking(ask)

    def read() -> None:
        assert told.get(timeout=30) == "half way"
        assert ask_model("plain") == "<plain>"
        added.set()

    run = flow.start({"text": "A"})
    if where == "main thread":
        read()
    elif where == "job":
        with ThreadPoolExecutor() as pool:
            pool.submit(read).result()
    else:
        # A server's thread has come to the application's code through the server's.
        started(threading.Thread(target=calls.handle, args=(read,)))
    assert run.get_result() == "<A>"
    assert asked(server) == ["plain", "A"]
    assert answers(run.workflow_id) == ["<A>"]


# Threads that are forgotten -------------------------------------------------------------------


def test_a_thread_that_a_method_has_forgotten(serve: Serve) -> None:
    """It does not end in the method after it, in whose run its calls would not be asked again."""
    server = serve()
    ended, tried = threading.Event(), threading.Event()
    failed: list[Exception] = []
    late: list[Any] = []

    def work() -> None:
        ask_model("in time")
        begun.set()
        assert ended.wait(30)
        late.extend([DBOS.workflow_id, counted_on_its_own("late")])
        try:
            ask_model("late")
        except LostContextError as error:
            failed.append(error)
        tried.set()

    begun = threading.Event()

    class Forgetful(Flow[Question]):
        @start()
        def begin(self) -> None:
            threading.Thread(target=work, name="forgotten").start()
            assert begun.wait(30)

        @listen(begin)
        def go_on(self) -> str:
            ended.set()
            assert tried.wait(30)
            return ask_model("after it")

    run = DBOSFlow(flow_name=unique("forgetful"), orig_flow=Forgetful).start()
    assert run.get_result() == "<after it>"
    assert asked(server) == ["in time", "after it"]
    assert answers(run.workflow_id) == ["<in time>", "<after it>"]
    assert "made on 'forgotten'" in str(failed[0])
    assert late == [None, "counted late"], "as outside of DBOS"


def test_a_call_that_is_under_way_when_the_method_ends_is_recorded(serve: Serve) -> None:
    begun, ended = threading.Event(), threading.Event()

    def script(request: Request) -> Any:
        if request.last_user_text == "slow":
            begun.set()
            assert ended.wait(30)
        return echo(request)

    serve(script)
    slow: list[threading.Thread] = []

    class Forgetful(Flow[Question]):
        @start()
        def begin(self) -> None:
            slow.append(threading.Thread(target=ask_model, args=("slow",)))
            slow[0].start()
            assert begun.wait(30)

        @listen(begin)
        def go_on(self) -> None:
            ended.set()
            slow[0].join(30)

    run = DBOSFlow(flow_name=unique("forgetful"), orig_flow=Forgetful).start()
    run.get_result()
    assert answers(run.workflow_id) == ["<slow>"]


def test_a_job_of_a_pool_may_outlive_the_method_but_not_the_run(serve: Serve) -> None:
    server = serve()
    ended, said, over = threading.Event(), threading.Event(), threading.Event()

    def work() -> str:
        assert ended.wait(30)
        ask_model("beside the next method")
        said.set()
        assert over.wait(30)
        return ask_model("plain")

    with ThreadPoolExecutor() as pool:
        jobs: list[Any] = []

        class Two(Flow[Question]):
            @start()
            def begin(self) -> None:
                jobs.append(pool.submit(work))

            @listen(begin)
            def go_on(self) -> None:
                ended.set()
                assert said.wait(30)

        run = DBOSFlow(flow_name=unique("two"), orig_flow=Two).start()
        run.get_result()
        over.set()
        assert jobs[0].result(30) == "<plain>"
    assert asked(server) == ["beside the next method", "plain"]
    assert answers(run.workflow_id) == ["<beside the next method>"]


class Account:
    def __init__(self, owner: str) -> None:
        self.owner = owner


class Named(Account):
    def __repr__(self) -> str:
        return f"Named({self.owner!r})"


def balance(account: Any, beside: threading.Barrier) -> str:
    beside.wait(30)
    return f"balance of {account.owner}"


@pytest.mark.parametrize("cls", [Account, Named])
def test_calls_that_nothing_tells_apart_are_warned_of(
    cls: type[Account], serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Before a crash gives one the result of the other."""
    serve()

    class Two(Flow[Question]):
        @start()
        def ask(self) -> list[str]:
            both = functools.partial(balance, beside=threading.Barrier(2))
            with ThreadPoolExecutor() as pool:
                return list(pool.map(functools.partial(step, both), [cls("ann"), cls("bob")]))

    found = DBOSFlow(flow_name=unique("two"), orig_flow=Two).kickoff()
    assert found == ["balance of ann", "balance of bob"]
    told = [each.getMessage() for each in caplog.records if "tell them apart" in each.getMessage()]
    assert len(told) == (cls is Account)
    assert all("of a Account there is no more than the name" in each for each in told)


# DBOS's own ------------------------------------------------------------------------------------


@DBOS.step()
def counted_on_its_own(what: str) -> str:
    return f"counted {what}"


@DBOS.workflow()
def child_with_a_thread(what: str) -> list[str]:
    got = [counted_on_its_own(f"{what} 1")]
    thread = threading.Thread(target=lambda: got.append(counted_on_its_own("on a thread")))
    thread.start()
    thread.join()
    return [*got, counted_on_its_own(f"{what} 2")]


@pytest.mark.parametrize("how", ["called", "started"])
def test_a_child_workflow_counts_its_own_steps(how: str, serve: Serve) -> None:
    """As DBOS has it, a thread of it is not part of it."""
    serve()
    name = unique("child")

    def ask(text: str) -> list[str]:
        with SetWorkflowID(name):
            if how == "called":
                return child_with_a_thread(text)
            return DBOS.start_workflow(child_with_a_thread, text).get_result()

    flow = asking(ask)
    expected = ["counted A 1", "counted on a thread", "counted A 2"]
    run = flow.start({"text": "A"})
    assert run.get_result() == expected
    assert [step["function_id"] for step in DBOS.list_workflow_steps(name)] == [1, 2]
    assert [step["output"] for step in DBOS.list_workflow_steps(name)] == expected[::2]
