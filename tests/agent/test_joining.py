"""Where an agent's call joins the run that is open, and where it has one of its own."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID

from agent.helpers import clerk, echo, job, note, now, replays, trace
from crewai_dbos import DBOSAgent
from crewai_dbos.testing import ModelServer, Reply, Request, ToolCall, delayed, text, tool_calls
from support.entries import how_many
from support.names import unique


@DBOS.workflow()
def report() -> list[str]:
    """A user's own workflow: steps of its own before, between and after two agents' runs."""
    agent: DBOSAgent = now["agent"]
    before = note("before")
    first = agent.execute_task(job())
    between = note("between")
    second = agent.kickoff("Again.").raw
    after = note("after")
    return [before, first, between, second, after]


@DBOS.workflow()
async def report_async() -> list[str]:
    agent: DBOSAgent = now["agent"]
    before = note("before")
    answers = await asyncio.gather(agent.akickoff("One."), agent.akickoff("Two."))
    return [before, *(answer.raw for answer in answers), note("after")]


def test_an_agent_joins_the_workflow_it_is_called_in() -> None:
    trace.clear()
    with ModelServer(echo) as server:
        now["agent"] = DBOSAgent(agent_name=unique("joined"), orig_agent=clerk(server))
        run_id = unique("report")
        with SetWorkflowID(run_id):
            result = report()
        assert result == [
            "before",
            "You said: Current Task: Do it.",
            "between",
            "You said: Current Task: Again.",
            "after",
        ]
        assert [w.workflow_id for w in DBOS.list_workflows(parent_workflow_id=run_id)] == []
        replays(run_id, server)


@DBOS.workflow()
def report_by_threads() -> dict[str, str]:
    """Two runs of one agent on threads, the slower one first or last."""
    answers: dict[str, str] = {}

    def ask(name: str) -> None:
        answers[name] = now["agent"].kickoff(f"{name}.").raw

    for name in now["threads"]:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(ask, name))
        thread.start()
        thread.join()
    return dict(sorted(answers.items()))


@DBOS.workflow()
def crowd() -> list[str]:
    """Ask on several threads at once, none of them the workflow's own."""
    together = threading.Barrier(4)

    def ask(name: str) -> str:
        together.wait(30)
        return str(now["agent"].kickoff(f"{name}.").raw)

    with ThreadPoolExecutor(4) as pool:
        contexts = [contextvars.copy_context() for _ in range(4)]
        futures = [
            pool.submit(context.run, ask, f"Question {n}") for n, context in enumerate(contexts)
        ]
        return [future.result() for future in futures]


def test_runs_on_threads_find_their_own_record_whichever_comes_first() -> None:
    with ModelServer(echo) as server:
        now["agent"] = DBOSAgent(agent_name=unique("threads"), orig_agent=clerk(server))
        now["threads"] = ["One", "Two"]
        run_id = unique("report")
        with SetWorkflowID(run_id):
            expected = report_by_threads()
        assert expected["One"] != expected["Two"]
        now["threads"] = ["Two", "One"]
        for start in (10_000, 3):
            assert DBOS.fork_workflow(run_id, start).get_result() == expected
        assert len(server.requests) == 3


@pytest.mark.some_entries
def test_threads_that_are_the_first_to_record_share_one_journal() -> None:
    with ModelServer(echo) as server:
        now["agent"] = DBOSAgent(agent_name=unique("threads"), orig_agent=clerk(server))
        for _ in range(how_many(1, 5)):
            now["threads"] = []
            run_id = unique("crowd")
            with SetWorkflowID(run_id):
                answers = crowd()
            names = [s["function_name"] for s in DBOS.list_workflow_steps(run_id)]
            assert len(names) == len(set(names)) == 2 * len(answers)
            replays(run_id, server)


def test_agents_side_by_side_in_one_async_workflow_keep_their_answers() -> None:
    trace.clear()
    with ModelServer(echo) as server:
        now["agent"] = DBOSAgent(agent_name=unique("gathered"), orig_agent=clerk(server))
        run_id = unique("report")

        async def main() -> list[str]:
            with SetWorkflowID(run_id):
                return await report_async()

        expected = [
            "before",
            "You said: Current Task: One.",
            "You said: Current Task: Two.",
            "after",
        ]
        assert asyncio.run(main()) == expected
        replays(run_id, server)


def test_an_agent_inside_a_tool_of_an_agent_joins_the_same_run() -> None:
    with ModelServer(echo) as inner_server:
        helper = DBOSAgent(agent_name=unique("helper"), orig_agent=clerk(inner_server))

        @tool
        def ask_helper(question: str) -> str:
            """Ask the helper."""
            return str(helper.kickoff(question).raw)

        def script(request: Request) -> Reply:
            if request.tool_results:
                return text(" ".join(content for _, content in request.tool_results))
            calls = [ToolCall("ask_helper", {"question": f"Question {n}."}) for n in range(3)]
            return tool_calls(*calls)

        with ModelServer(script) as server:
            agent = DBOSAgent(
                agent_name=unique("boss"), orig_agent=clerk(server, tools=[ask_helper])
            )
            run_id = unique("nested")
            with SetWorkflowID(run_id):
                answer = agent.execute_task(job())
            assert answer == " ".join(f"You said: Current Task: Question {n}." for n in range(3))
            names = [s["function_name"] for s in DBOS.list_workflow_steps(run_id)]
            assert sum("tool:ask_helper" in n and n.endswith("llm#1") for n in names) == 3
            before = len(inner_server.requests), len(server.requests)
            fork = DBOS.fork_workflow(run_id, 10_000).get_workflow_id()
            assert agent.retrieve(fork).get_result() == answer
            assert before == (len(inner_server.requests), len(server.requests))


@DBOS.workflow()
def ask_in_a_workflow_of_its_own(question: str) -> str:
    """Ask the helper."""
    return str(now["helper"].kickoff(question).raw)


@DBOS.step()
def ask_in_a_step(question: str) -> str:
    """Ask the helper."""
    return str(now["helper"].kickoff(question).raw)


@pytest.mark.parametrize("decorated", [ask_in_a_workflow_of_its_own, ask_in_a_step])
def test_an_agent_behind_a_decorated_tool_belongs_to_that_workflow_or_step(decorated: Any) -> None:
    def script(request: Request) -> Reply:
        if request.tool_results:
            return text(request.tool_results[0][1])
        return tool_calls(ToolCall(decorated.__name__, {"question": "Why."}))

    with ModelServer(echo) as inner_server, ModelServer(script) as server:
        now["helper"] = DBOSAgent(agent_name=unique("helper"), orig_agent=clerk(inner_server))
        outer = clerk(server, tools=[tool(decorated)])
        agent = DBOSAgent(agent_name=unique("boss"), orig_agent=outer)
        run_id = unique("behind")
        with SetWorkflowID(run_id):
            answer = agent.execute_task(job())
        assert answer == "You said: Current Task: Why."
        own = [s["function_name"] for s in DBOS.list_workflow_steps(run_id)]
        assert not any("helper" in name for name in own)
        for child in DBOS.list_workflows(parent_workflow_id=run_id):
            names = [s["function_name"] for s in DBOS.list_workflow_steps(child.workflow_id)]
            assert [name.rpartition("/")[2] for name in names] == ["order#1", "llm#1"]
        fork = DBOS.fork_workflow(run_id, 10_000).get_workflow_id()
        assert agent.retrieve(fork).get_result() == answer
        assert len(inner_server.requests) == 1


def test_two_runs_of_one_agent_in_flight_do_not_see_each_other() -> None:
    def script(request: Request) -> Reply:
        return delayed(0.1, echo(request))

    with ModelServer(script) as server:
        agent = DBOSAgent(agent_name=unique("busy"), orig_agent=clerk(server))
        answers: dict[int, str] = {}

        def one(n: int) -> None:
            answers[n] = agent.kickoff(f"Number {n}.").raw

        threads = [threading.Thread(target=one, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {n: f"You said: Current Task: Number {n}." for n in range(6)}
