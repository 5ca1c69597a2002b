"""Context variables that `store_context` names have on recovery what they had."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from crewai import Crew
from crewai.flow.flow import Flow, start
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow, DefinitionError, store_context
from crewai_dbos._stored import context, work_order
from crewai_dbos.errors import UnstorableInputError, UnstorableValueError
from crewai_dbos.testing import Reply, Request, text
from crews.scenarios import agent, task
from support.names import unique
from support.serving import Serve


@dataclass
class Trace:
    id: str
    parents: tuple[str, ...] = ()


tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
trace: ContextVar[Trace | None] = ContextVar("trace", default=None)
unnamed: ContextVar[str] = ContextVar("unnamed", default="default")

ACME = ("acme", Trace("t-1", ("p",)), "default")


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_variables", {})
    store_context(tenant, trace)


def seen() -> tuple[Any, ...]:
    return tenant.get(), trace.get(), unnamed.get()


def for_acme(begin: Callable[[], Any]) -> Any:
    def work() -> Any:
        tenant.set("acme")
        trace.set(Trace("t-1", ("p",)))
        return begin()

    return copy_context().run(work)


class Telling(Flow[dict[str, Any]]):
    found: ClassVar[list[Any]] = []

    @start()
    def one(self) -> str:
        Telling.found.append(seen())
        return agent("Clerk").kickoff("Do").raw


@pytest.mark.parametrize("how", ["crew", "akickoff", "flow", "agent", "start"])
def test_they_are_set_where_the_run_goes_on(how: str, serve: Serve) -> None:
    name, found = unique("acme"), []
    asked: list[Request] = []

    def cancelled_once(request: Request) -> Reply:
        asked.append(request)
        if len(asked) == 1:
            DBOS.cancel_workflow(name)
        return text("Done.")

    def note(_: Any) -> None:
        found.append(seen())

    serve(cancelled_once)
    clerk = agent("Clerk")
    do = task("Do", clerk, callback=note)
    crew = Crew(agents=[clerk], tasks=[do])
    begin: dict[str, Callable[[], Any]] = {
        "crew": lambda: DBOSCrew(crew_name=name, orig_crew=crew).kickoff(),
        "akickoff": lambda: asyncio.run(DBOSCrew(crew_name=name, orig_crew=crew).akickoff()),
        "start": lambda: DBOSCrew(crew_name=name, orig_crew=crew).start().get_result(),
        "flow": lambda: DBOSFlow(flow_name=name, orig_flow=Telling).kickoff(),
        "agent": lambda: DBOSAgent(
            agent_name=name,
            orig_agent=agent("Clerk", guardrail=lambda _: (note(None) is None, "Done.")),
        ).kickoff("Do"),
    }
    Telling.found = found
    with SetWorkflowID(name), pytest.raises(Exception, match="cancelled"):
        for_acme(begin[how])
    found.clear()
    # A thread of DBOS's own, which has nothing of the caller's.
    DBOS.resume_workflow(name).get_result()
    assert found == [ACME]
    assert seen() == ("nobody", None, "default")


def test_who_asks_again_may_have_others(serve: Serve) -> None:
    server = serve(lambda request: text("Done."))
    clerk = agent("Clerk")
    crew = DBOSCrew(
        crew_name=unique("again"), orig_crew=Crew(agents=[clerk], tasks=[task("Do", clerk)])
    )
    for _ in range(2):
        with SetWorkflowID(crew.crew_name):
            assert for_acme(crew.kickoff).raw == "Done."
    with SetWorkflowID(crew.crew_name):
        assert crew.kickoff().raw == "Done."
    assert len(server.requests) == 1
    batch = unique("batch")
    for_each: Callable[[], Any] = lambda: crew.kickoff_for_each([{}])  # noqa: E731
    for begin in (lambda: for_acme(for_each), for_each):
        with SetWorkflowID(batch):
            assert [each.raw for each in begin()] == ["Done."]
    assert len(server.requests) == 2


def test_what_cannot_be_stored_is_refused_before_the_run(serve: Serve) -> None:
    server = serve()
    lock: ContextVar[Any] = ContextVar("lock")
    store_context(lock)
    clerk = agent("Clerk")
    crew = DBOSCrew(
        crew_name=unique("locked"), orig_crew=Crew(agents=[clerk], tasks=[task("Do", clerk)])
    )

    def begin() -> None:
        lock.set(threading.Lock())
        crew.kickoff()

    with pytest.raises(UnstorableInputError, match="context variable 'lock' can't be stored"):
        copy_context().run(begin)
    assert not server.requests


def test_names_and_types() -> None:
    with pytest.raises(DefinitionError, match="Two context variables are called 'tenant'"):
        store_context(ContextVar("tenant"))
    with pytest.raises(TypeError, match="takes ContextVars, not str"):
        store_context("tenant")  # type: ignore[arg-type]
    store_context(tenant)


def test_a_row_that_says_something_else_is_refused() -> None:
    with pytest.raises(UnstorableValueError, match="context variables are a mapping"):
        work_order.context_of({"v": 2, "context": ["acme"]})
