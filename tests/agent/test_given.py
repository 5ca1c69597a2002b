"""What a crew gives a durable agent is used in its run, or refused before the run starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crewai import Crew, Task
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource
from crewai.memory.unified_memory import Memory
from crewai.tools import tool
from crewai.utilities.rpm_controller import RPMController
from dbos import DBOS, SetWorkflowID

from agent.helpers import clerk, job, model, now, replays
from crewai_dbos import DBOSAgent, UnstorableInputError
from crewai_dbos.testing import (
    ModelServer,
    Reply,
    Request,
    ToolCall,
    hang,
    structured,
    text,
    tool_calls,
)
from features.scenarios import Shelf
from support.names import unique

CALM = {
    "keywords": [],
    "suggested_scopes": [],
    "complexity": 0.1,
    "recall_queries": ["vault"],
    "memories": [],
}


def script(request: Request) -> Reply:
    if request.response_format or request.forced_tool:
        return structured(CALM)
    return text("swordfish" if "swordfish" in str(request.messages) else "no idea")


def embed(texts: list[str]) -> list[list[float]]:
    return [[0.1] * 8 for _ in texts]


def vault(server: ModelServer, folder: Path) -> Memory:
    memory = Memory(llm=model(server), embedder=embed, storage=str(folder / "memory"))
    known: dict[str, Any] = {"scope": "/", "categories": ["x"], "importance": 0.9, "metadata": {}}
    memory.remember("The password is swordfish", **known)
    return memory


@DBOS.workflow()
def around_the_crew() -> str:
    return str(now["crew"]().kickoff().raw)


def crew_of(agent: Any, **options: Any) -> Crew:
    return Crew(agents=[agent], tasks=[job(agent=agent)], **options)


def in_a_workflow(crew: Any, server: ModelServer) -> str:
    """The crew's answer, which all its replays give, too."""
    now["crew"] = crew
    run_id = unique("crew")
    with SetWorkflowID(run_id):
        answer = around_the_crew()
    replays(run_id, server)
    return answer


def test_a_crews_memory_is_its_agents_memory(tmp_path: Path) -> None:
    with ModelServer(script) as server:
        agent = DBOSAgent(agent_name=unique("remembering"), orig_agent=clerk(server))
        memory = vault(server, tmp_path)
        assert in_a_workflow(lambda: crew_of(agent, memory=memory), server) == "swordfish"
        with pytest.raises(UnstorableInputError, match=r"crew\.memory.*@DBOS\.workflow"):
            crew_of(agent, memory=memory).kickoff()


def test_an_agent_with_a_memory_of_its_own_has_it_in_a_crew(tmp_path: Path) -> None:
    with ModelServer(script) as server:
        orig = clerk(server, memory=vault(server, tmp_path))
        messenger = DBOSAgent(agent_name=unique("messenger"), orig_agent=orig)
        assert messenger.message("Hello.") == orig.message("Hello.")
        agent = DBOSAgent(agent_name=unique("remembering"), orig_agent=orig)
        assert crew_of(agent).kickoff().raw == "swordfish"
        assert in_a_workflow(lambda: crew_of(agent), server) == "swordfish"


def test_knowledge_sources_that_a_crew_loads_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(self: Shelf, query: list[str], *args: Any, **kwargs: Any) -> list[Any]:
        return [{"id": "1", "content": "It is swordfish", "metadata": {}, "score": 0.9}]

    monkeypatch.setattr(Shelf, "search", search)

    class ShelfSource(StringKnowledgeSource):
        def add(self) -> None:
            """Already on the shelf."""

    with ModelServer(script) as server:
        orig = clerk(server, knowledge_sources=[ShelfSource(content="x")])
        agent = DBOSAgent(agent_name=unique("knowing"), orig_agent=orig)
        plain = clerk(server, knowledge_sources=[ShelfSource(content="x")])
        monkeypatch.setattr("crewai.knowledge.knowledge.KnowledgeStorage", lambda **_: Shelf())
        assert crew_of(plain).kickoff().raw == "swordfish"
        assert crew_of(agent).kickoff().raw == "swordfish"
        assert in_a_workflow(lambda: crew_of(agent), server) == "swordfish"


def test_a_crews_step_callback_is_called_in_a_workflow_and_refused_outside() -> None:
    seen: list[Any] = []

    @tool
    @DBOS.step()
    def peek(key: str) -> str:
        """Peek."""
        return f"saw {key}"

    def script(request: Request) -> Reply:
        if request.tool_results:
            return text("Seen.")
        return tool_calls(ToolCall("peek", {"key": "a"}))

    with ModelServer(script) as server:
        agent = DBOSAgent(agent_name=unique("watched"), orig_agent=clerk(server, tools=[peek]))
        plain = clerk(server, tools=[peek])
        crew_of(plain, step_callback=seen.append).kickoff()
        expected = len(seen)
        assert expected
        now["crew"] = lambda: crew_of(agent, step_callback=seen.append)
        around_the_crew()
        assert len(seen) == 2 * expected
        again = DBOSAgent(agent_name=unique("watched"), orig_agent=clerk(server))
        with pytest.raises(UnstorableInputError, match="step_callback"):
            crew_of(again, step_callback=seen.append).kickoff()


def test_a_crews_limit_of_requests_counts_in_a_workflow_and_is_refused_outside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    check = RPMController.check_or_wait

    def counted(self: RPMController) -> bool:
        asked.append("asked")
        return bool(check(self))

    monkeypatch.setattr(RPMController, "check_or_wait", counted)
    with ModelServer(script) as server:
        agent = DBOSAgent(agent_name=unique("limited"), orig_agent=clerk(server))
        in_a_workflow(lambda: crew_of(agent, max_rpm=100), server)
        # The replays of the whole, and one for each of two steps, of which one asked the model.
        assert len(asked) < len(server.requests) + 3
        assert asked
        with pytest.raises(UnstorableInputError, match="rpm_controller"):
            crew_of(agent, max_rpm=100).kickoff()


def test_what_is_set_on_a_durable_agent_later_is_used_or_refused() -> None:
    @tool
    @DBOS.step()
    def late(key: str) -> str:
        """Set too late."""
        return key

    with ModelServer(script) as server:
        agent = DBOSAgent(agent_name=unique("changed"), orig_agent=clerk(server))
        agent.tools = [late]
        with pytest.raises(UnstorableInputError, match="tools after it was defined"):
            agent.execute_task(job())
        assert server.requests == []
        in_a_workflow(lambda: crew_of(agent), server)
        assert server.requests[0].offered_tools == ["late"]


def test_a_crew_with_a_task_on_a_thread_ends_when_its_workflow_is_cancelled() -> None:
    hold = hang(text("late"))
    with ModelServer(lambda request: hold) as server:
        agent = DBOSAgent(agent_name=unique("beside"), orig_agent=clerk(server))

        def crew() -> Crew:
            tasks = [job(agent=agent, async_execution=True), job(agent=agent)]
            return Crew(agents=[agent], tasks=tasks)

        now["crew"] = crew
        run_id = unique("cancelled")
        with SetWorkflowID(run_id):
            handle = DBOS.start_workflow(around_the_crew)
        server.wait_for_requests(1)
        DBOS.cancel_workflow(run_id)
        hold.release()
        with pytest.raises(Exception, match="cancelled"):
            handle.get_result()


def test_a_guardrail_of_a_task_is_asked_once() -> None:
    def judge(request: Request) -> Reply:
        if "guardrail" in str(request.messages).lower():
            return text('{"valid": true, "feedback": null}')
        return text("An answer.")

    with ModelServer(judge) as server:
        agent = DBOSAgent(agent_name=unique("guarded"), orig_agent=clerk(server))

        def crew() -> Crew:
            task = Task(
                description="Do it.", expected_output="A text.", agent=agent, guardrail="Is polite"
            )
            return Crew(agents=[agent], tasks=[task])

        assert in_a_workflow(crew, server) == "An answer."
        usage = agent.llm.get_token_usage_summary()  # type: ignore[union-attr]
        assert usage.successful_requests >= 2
