"""What happens at the same time in one workflow, or in two, is not mixed up on recovery."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.events import AgentExecutionErrorEvent, crewai_event_bus
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel

from agent.helpers import clerk, job, model, note, now, replays, trace
from crewai_dbos import ConcurrentRunError, DBOSAgent
from crewai_dbos.testing import (
    ModelServer,
    Reply,
    Request,
    ToolCall,
    error,
    hang,
    structured,
    text,
    tool_calls,
)
from support.entries import how_many
from support.names import unique


class Name(BaseModel):
    name: str


class Age(BaseModel):
    age: int


@DBOS.workflow()
async def ask_for_both() -> list[Any]:
    asked = [now["agent"].akickoff("Who was Ada?", response_format=kind) for kind in (Name, Age)]
    name, age = await asyncio.gather(*asked)
    return [name.pydantic.name, age.pydantic.age]


@pytest.mark.some_entries
def test_equal_questions_with_other_answers_wanted_keep_theirs() -> None:
    def script(request: Request) -> Reply:
        return structured({"age": 36} if request.schema_name == "Age" else {"name": "Ada"})

    with ModelServer(script) as server:
        now["agent"] = DBOSAgent(agent_name=unique("both"), orig_agent=clerk(server))
        run_id = unique("both")
        with SetWorkflowID(run_id):
            handle = DBOS.start_workflow(ask_for_both)
        assert handle.get_result() == ["Ada", 36]
        for _ in range(how_many(2, 5)):
            assert DBOS.fork_workflow(run_id, 10_000).get_result() == ["Ada", 36]
        replays(run_id, server)


@DBOS.workflow()
async def sample() -> list[str]:
    answers = await asyncio.gather(*(now["agent"].akickoff("Roll a die.") for _ in range(3)))
    return [note(answer.raw) for answer in answers]


@pytest.mark.some_entries
def test_equal_questions_in_a_gather_keep_their_answers() -> None:
    with ModelServer(lambda request: text(f"rolled {request.number}")) as server:
        now["agent"] = DBOSAgent(agent_name=unique("dice"), orig_agent=clerk(server))
        run_id = unique("dice")
        with SetWorkflowID(run_id):
            handle = DBOS.start_workflow(sample)
        expected = handle.get_result()
        assert sorted(expected) == ["rolled 1", "rolled 2", "rolled 3"]
        for _ in range(how_many(2, 5)):
            assert DBOS.fork_workflow(run_id, 10_000).get_result() == expected


@DBOS.workflow()
def sample_on_threads() -> list[str]:
    together = threading.Barrier(2)

    def ask() -> str:
        together.wait(30)
        return str(now["agent"].kickoff("Roll a die.").raw)

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(contextvars.copy_context().run, ask) for _ in range(2)]
        now["hold"].hold_until_refused(futures)
        return [future.result() for future in futures]


class Held:
    """Keeps the first request waiting until the second call is over, however it ends."""

    def __init__(self) -> None:
        self.reply = hang(text("rolled"))

    def hold_until_refused(self, futures: list[Any]) -> None:
        done = threading.Event()
        for future in futures:
            future.add_done_callback(lambda _: done.set())
        assert done.wait(30)
        self.reply.release()


def test_equal_questions_on_two_threads_at_once_are_refused() -> None:
    held = now["hold"] = Held()
    with ModelServer(lambda request: held.reply) as server:
        now["agent"] = DBOSAgent(agent_name=unique("dice"), orig_agent=clerk(server))
        with pytest.raises(ConcurrentRunError, match=r"asyncio\.gather"):
            sample_on_threads()


@DBOS.workflow()
def crew_at_work() -> list[str]:
    return [output.raw for output in now["crew"]().kickoff(inputs=now.get("inputs")).tasks_output]


@pytest.mark.some_entries
def test_guardrails_of_tasks_on_threads_keep_their_verdicts() -> None:
    slow = threading.Event()

    def script(request: Request) -> Reply:
        asked = str(request.messages)
        if "Guardrail Agent" in request.system_text:
            bad = "ALPHA draft" in asked
            slow.set()
            return structured({"valid": not bad, "feedback": "say more" if bad else None})
        if "ALPHA" not in asked:
            return text("BETA fine" if "BETA" in asked else "end fine")
        if "say more" in asked:
            return text("ALPHA better")
        slow.wait(30)  # until BETA has been judged
        return text("ALPHA draft")

    with ModelServer(script) as server:
        agents = [
            DBOSAgent(agent_name=unique("judged"), orig_agent=clerk(server)) for _ in range(2)
        ]

        def crew() -> Crew:
            tasks = [
                Task(
                    description=f"Say {what}",
                    expected_output="A text.",
                    agent=agent,
                    async_execution=True,
                    guardrail="It must be good",
                )
                for what, agent in zip(("ALPHA", "BETA"), agents, strict=True)
            ]
            return Crew(agents=agents, tasks=[*tasks, job(agent=agents[0])])

        now.update(crew=crew, inputs=None)
        run_id = unique("judged")
        with SetWorkflowID(run_id):
            expected = crew_at_work()
        assert expected[:2] == ["ALPHA better", "BETA fine"]
        made = len(server.requests)
        for _ in range(how_many(2, 4)):
            assert DBOS.fork_workflow(run_id, 10_000).get_result() == expected
        assert len(server.requests) == made


@DBOS.workflow()
def publish(topic: str) -> str:
    agent = now["agent"]
    tasks = [
        Task(description=f"Step {n} about {{topic}}", expected_output="A text.", agent=agent)
        for n in (1, 2)
    ]
    return str(Crew(agents=[agent], tasks=tasks).kickoff(inputs={"topic": topic}).raw)


def test_crews_of_two_workflows_may_have_one_agent() -> None:
    both = threading.Barrier(2)

    def script(request: Request) -> Reply:
        if "Step 1" in request.last_user_text:
            both.wait(30)  # each crew has filled in its topic
        return text("Written.")

    with ModelServer(script) as server:
        orig = Agent(role="{topic} expert", goal="Know", backstory="Old.", llm=model(server))
        agent = now["agent"] = DBOSAgent(agent_name=unique("shared"), orig_agent=orig)
        handles = [DBOS.start_workflow(publish, topic) for topic in ("CATS", "DOGS")]
        assert [handle.get_result() for handle in handles] == ["Written.", "Written."]
        for request in server.requests:
            [topic] = [each for each in ("CATS", "DOGS") if each in request.last_user_text]
            assert f"You are {topic} expert" in request.system_text
        assert agent.role == "{topic} expert"
        assert agent.crew is None


@DBOS.step()
def alert(what: str) -> str:
    trace.append(what)
    return what


@DBOS.workflow()
def catch() -> str:
    try:
        return str(now["agent"].execute_task(job()))
    except Exception as failure:
        return type(failure).__name__


def test_a_handler_of_a_failure_has_its_step_though_the_workflow_goes_on() -> None:
    trace.clear()
    ended = threading.Event()
    with ModelServer(lambda request: error(401)) as server, crewai_event_bus.scoped_handlers():

        @crewai_event_bus.on(AgentExecutionErrorEvent)
        def on_error(source: Any, event: Any) -> None:
            ended.wait(0.3)  # a slow handler: nobody sets it
            alert("failed")

        orig = clerk(server, max_retry_limit=0)
        now["agent"] = DBOSAgent(agent_name=unique("failing"), orig_agent=orig)
        run_id = unique("failing")
        with SetWorkflowID(run_id):
            assert catch() == "AuthenticationError"
        assert trace == ["failed"]
        replays(run_id, server)


def test_what_a_coworker_does_is_recorded_call_by_call(caplog: pytest.LogCaptureFixture) -> None:
    def script(request: Request) -> Reply:
        if "delegate_work_to_coworker" in request.offered_tools and not request.tool_results:
            asked = {"task": "Look", "context": "None", "coworker": "Helper"}
            return tool_calls(ToolCall("delegate_work_to_coworker", asked))
        return text("Done.")

    with ModelServer(script) as server, caplog.at_level(logging.WARNING, logger="crewai_dbos"):
        boss = DBOSAgent(agent_name=unique("boss"), orig_agent=clerk(server, allow_delegation=True))
        helper = DBOSAgent(
            agent_name=unique("helper"),
            orig_agent=Agent(role="Helper", goal="Help", backstory="Kind.", llm=model(server)),
        )
        now.update(inputs=None, crew=lambda: Crew(agents=[boss, helper], tasks=[job(agent=boss)]))
        run_id = unique("delegated")
        with SetWorkflowID(run_id):
            assert crew_at_work() == ["Done."]
        names = [step["function_name"] for step in DBOS.list_workflow_steps(run_id)]
        assert sum(name.endswith("/llm#1") for name in names) == 2
        assert "not recorded" not in caplog.text
        replays(run_id, server)


def test_a_planner_that_is_not_recorded_is_named(caplog: pytest.LogCaptureFixture) -> None:
    plan = {"list_of_plans_per_task": [{"task_number": 1, "task": "Do it.", "plan": "Do it."}]}

    def script(request: Request) -> Reply:
        return structured(plan) if request.response_format else text("Done.")

    with ModelServer(script) as server, caplog.at_level(logging.WARNING, logger="crewai_dbos"):
        agent = DBOSAgent(agent_name=unique("planned"), orig_agent=clerk(server))
        options = {"planning": True, "planning_llm": model(server)}
        now.update(
            inputs=None, crew=lambda: Crew(agents=[agent], tasks=[job(agent=agent)], **options)
        )
        assert crew_at_work() == ["Done."]
    assert "its planner will be asked again" in caplog.text
    assert "planning_llm=DBOSLLM" in caplog.text
