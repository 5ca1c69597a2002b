"""What an object has in place of a method of its class is followed, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any
from unittest.mock import Mock

import pytest
from crewai import Agent, Crew
from crewai.flow.flow import Flow, start
from crewai.memory.unified_memory import Memory
from crewai.tools import BaseTool
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow, DefinitionError, doctor
from crewai_dbos.testing import text
from crews.scenarios import agent, embed, model, search, task
from support.names import unique
from support.serving import Serve


def with_a2a() -> Agent:
    """As crewAI leaves an agent that has a2a."""
    remote = agent("Remote")
    for name in ("execute_task", "aexecute_task", "kickoff", "kickoff_async"):
        method = getattr(remote, name).__func__
        object.__setattr__(remote, name, MethodType(method, remote))
    object.__setattr__(remote, "a2a", ["https://remote.example"])
    return remote


def replaced(what: str) -> Callable[[], Crew]:
    """A crew in which a method of one thing is another than its class's."""

    def build() -> Crew:
        clerk = agent("Clerk", tools=[search])
        boss = agent("Boss", allow_delegation=True)
        do = task("Do it", clerk)
        crew = Crew(agents=[clerk], tasks=[do], manager_agent=boss, process="hierarchical")
        thing = {"crew": crew, "agent": clerk, "manager": boss, "task": do}[what]
        name = {"crew": "kickoff", "task": "execute_sync"}.get(what, "execute_task")
        object.__setattr__(thing, name, lambda *_, **__: "mine")
        return crew

    return build


def test_an_agent_with_a2a_is_refused(launched: None) -> None:
    remote = with_a2a()
    built = Crew(agents=[remote], tasks=[task("Do", remote)])
    with pytest.raises(DefinitionError, match=r"execute_task.* of agent 'Remote' .* for a2a"):
        DBOSCrew(crew_name=unique("remote"), orig_crew=built)
    with pytest.raises(DefinitionError, match="Leave a2a out"):
        DBOSAgent(agent_name=unique("remote"), orig_agent=with_a2a())


@pytest.mark.parametrize("what", ["crew", "agent", "manager", "task"])
def test_a_method_of_the_users_own_is_refused(what: str, launched: None) -> None:
    with pytest.raises(DefinitionError, match="has been replaced on the object"):
        DBOSCrew(crew_name=unique("replaced"), orig_crew=replaced(what))


def test_so_is_one_of_a_flow_and_of_a_tool(launched: None) -> None:
    class Small(Flow[dict[str, Any]]):
        @start()
        def one(self) -> str:
            return "one"

    def build() -> Any:
        flow = Small()
        object.__setattr__(flow, "kickoff_async", Mock())
        return flow

    with pytest.raises(DefinitionError, match="kickoff_async of flow 'Small'"):
        DBOSFlow(flow_name=unique("replaced"), orig_flow=build)
    tool: BaseTool = search.model_copy()
    object.__setattr__(tool, "run", Mock())
    clerk = agent("Clerk", tools=[tool])
    with pytest.raises(DefinitionError, match="run of the tool 'search'"):
        DBOSAgent(agent_name=unique("replaced"), orig_agent=clerk)


def test_one_that_is_replaced_later_is_refused_by_the_run_and_told_by_the_doctor(
    serve: Serve,
) -> None:
    server = serve()
    clerk = agent("Clerk")
    crew = DBOSCrew(
        crew_name=unique("later"), orig_crew=Crew(agents=[clerk], tasks=[task("Do", clerk)])
    )
    object.__setattr__(clerk, "execute_task", Mock())
    findings = doctor.inspect(crew).findings
    assert [f.rule for f in findings if "execute_task" in f.what] == ["replaced-method"]
    with pytest.raises(Exception, match="execute_task of agent 'Clerk' has been replaced"):
        crew.kickoff()
    assert not server.requests


def test_that_of_an_llm_is_called_and_recorded(serve: Serve) -> None:
    server = serve()
    asked: list[Any] = []

    def call(messages: Any, *_: Any, **__: Any) -> str:
        asked.append(messages)
        return "Thought: I know.\nFinal Answer: 42"

    llm = model()
    object.__setattr__(llm, "call", call)
    clerk = agent("Clerk", llm=llm)
    built = Crew(agents=[clerk], tasks=[task("Do", clerk)])
    expected = built.kickoff().raw
    crew = DBOSCrew(crew_name=unique("mine"), orig_crew=built)
    with SetWorkflowID(crew.crew_name):
        assert crew.kickoff().raw == expected == "42"
    steps = DBOS.list_workflow_steps(crew.crew_name)
    assert [s for s in steps if s["function_name"].endswith("/llm#1")]
    fork = DBOS.fork_workflow(crew.crew_name, steps[-1]["function_id"] + 1).get_workflow_id()
    assert crew.retrieve(fork).get_result().raw == "42"
    assert len(asked) == 2
    assert not server.requests


def test_that_of_a_memory_is_called_and_recorded(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crews.scenarios.report_effect", lambda *_, **__: None)
    serve(lambda request: text("Done."))
    recalled = Mock(return_value=[])
    memory = Memory(llm=model(), embedder=embed, storage=str(tmp_path / "memory"), read_only=True)
    object.__setattr__(memory, "recall", recalled)
    clerk = agent("Clerk")
    built = Crew(agents=[clerk], tasks=[task("Do", clerk)], memory=memory)
    crew = DBOSCrew(crew_name=unique("recalling"), orig_crew=built)
    with SetWorkflowID(crew.crew_name):
        crew.kickoff()
    called = recalled.call_count
    assert called
    steps = DBOS.list_workflow_steps(crew.crew_name)
    assert [s for s in steps if "/memory.recall#1" in s["function_name"]]
    fork = DBOS.fork_workflow(crew.crew_name, steps[-1]["function_id"] + 1).get_workflow_id()
    crew.retrieve(fork).get_result()
    assert recalled.call_count == called
