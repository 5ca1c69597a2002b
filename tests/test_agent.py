"""Where DBOSAgent, DBOSLLM and DBOSAgentExecutor open a run, join one, or are plain crewAI."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel

from crewai_dbos import (
    DBOSLLM,
    DBOSAgent,
    DBOSAgentExecutor,
    DefinitionError,
    DriftError,
    RunConflictError,
    StepConfig,
    UnstorableInputError,
)
from crewai_dbos.testing import (
    ModelServer,
    Reply,
    Request,
    ToolCall,
    delayed,
    error,
    structured,
    text,
    tool_calls,
)
from support.dbos_config import QUICK

_ids = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    path: Path = tmp_path_factory.mktemp("agent") / "dbos.sqlite"
    DBOS(config={"system_database_url": f"sqlite:///{path}", **QUICK})
    DBOS.launch()
    yield
    DBOS.destroy()


def unique(name: str) -> str:
    return f"{name}-{next(_ids)}"


def model(server: ModelServer, **options: Any) -> Any:
    return LLM(model="openai/gpt-4o-mini", api_key="sk-test", base_url=server.base_url, **options)


def clerk(server: ModelServer, **options: Any) -> Agent:
    options.setdefault("llm", model(server))
    return Agent(role="Clerk", goal="Work", backstory="Diligent.", **options)


def job(**options: Any) -> Task:
    return Task(description="Do it.", expected_output="A text.", **options)


def echo(request: Request) -> Reply:
    return text(f"You said: {request.last_user_text.split('.')[0].strip()}.")


class Person(BaseModel):
    name: str


# Joining ---------------------------------------------------------------------

FAST = StepConfig(retries_allowed=True, max_attempts=4, interval_seconds=0.01)
_now: dict[str, Any] = {}
trace: list[str] = []


@DBOS.step()
def note(what: str) -> str:
    trace.append(what)
    return what


@DBOS.workflow()
def report() -> list[str]:
    """A user's own workflow: steps of its own before, between and after two agents' runs."""
    agent: DBOSAgent = _now["agent"]
    before = note("before")
    first = agent.execute_task(job())
    between = note("between")
    second = agent.kickoff("Again.").raw
    after = note("after")
    return [before, first, between, second, after]


@DBOS.workflow()
async def report_async() -> list[str]:
    agent: DBOSAgent = _now["agent"]
    before = note("before")
    answers = await asyncio.gather(agent.akickoff("One."), agent.akickoff("Two."))
    return [before, *(answer.raw for answer in answers), note("after")]


def replays(run_id: str, server: ModelServer) -> None:
    """Forks of the run from every step give its result and repeat nothing recorded."""
    steps = DBOS.list_workflow_steps(run_id)
    expected = DBOS.retrieve_workflow(run_id).get_result()
    notes, requests = len(trace), len(server.requests)
    end = DBOS.fork_workflow(run_id, steps[-1]["function_id"] + 1)
    assert end.get_result() == expected
    assert (len(trace), len(server.requests)) == (notes, requests)
    forks = [DBOS.fork_workflow(run_id, step["function_id"]) for step in steps]
    assert all(fork.get_result() == expected for fork in forks)


def test_an_agent_joins_the_workflow_it_is_called_in() -> None:
    trace.clear()
    with ModelServer(echo) as server:
        _now["agent"] = DBOSAgent(agent_name=unique("joined"), orig_agent=clerk(server))
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
        answers[name] = _now["agent"].kickoff(f"{name}.").raw

    for name in _now["threads"]:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(ask, name))
        thread.start()
        thread.join()
    return dict(sorted(answers.items()))


def test_runs_on_threads_find_their_own_record_whichever_comes_first() -> None:
    with ModelServer(echo) as server:
        _now["agent"] = DBOSAgent(agent_name=unique("threads"), orig_agent=clerk(server))
        _now["threads"] = ["One", "Two"]
        run_id = unique("report")
        with SetWorkflowID(run_id):
            expected = report_by_threads()
        assert expected["One"] != expected["Two"]
        _now["threads"] = ["Two", "One"]
        for start in (10_000, 3):
            assert DBOS.fork_workflow(run_id, start).get_result() == expected
        assert len(server.requests) == 3


def test_agents_side_by_side_in_one_async_workflow_keep_their_answers() -> None:
    trace.clear()
    with ModelServer(echo) as server:
        _now["agent"] = DBOSAgent(agent_name=unique("gathered"), orig_agent=clerk(server))
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
    return str(_now["helper"].kickoff(question).raw)


@DBOS.step()
def ask_in_a_step(question: str) -> str:
    """Ask the helper."""
    return str(_now["helper"].kickoff(question).raw)


@pytest.mark.parametrize("decorated", [ask_in_a_workflow_of_its_own, ask_in_a_step])
def test_an_agent_behind_a_decorated_tool_belongs_to_that_workflow_or_step(decorated: Any) -> None:
    def script(request: Request) -> Reply:
        if request.tool_results:
            return text(request.tool_results[0][1])
        return tool_calls(ToolCall(decorated.__name__, {"question": "Why."}))

    with ModelServer(echo) as inner_server, ModelServer(script) as server:
        _now["helper"] = DBOSAgent(agent_name=unique("helper"), orig_agent=clerk(inner_server))
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


def test_a_crew_fills_its_inputs_into_a_durable_agent() -> None:
    with ModelServer(lambda request: text(request.system_text)) as server:
        orig = Agent(
            role="{topic} expert", goal="Know {topic}", backstory="Old.", llm=model(server)
        )
        agent = DBOSAgent(agent_name=unique("templated"), orig_agent=orig)
        task = Task(description="About {topic}", expected_output="A text.", agent=agent)
        crew = Crew(agents=[agent], tasks=[task])
        assert "tea expert" in crew.kickoff(inputs={"topic": "tea"}).raw
        outputs = crew.kickoff_for_each(inputs=[{"topic": "ink"}, {"topic": "wax"}])
        assert ["ink expert" in outputs[0].raw, "wax expert" in outputs[1].raw] == [True, True]


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


def test_a_crew_of_plain_crewai_runs_a_durable_agent() -> None:
    with ModelServer(echo) as server:
        agent = DBOSAgent(agent_name=unique("member"), orig_agent=clerk(server))
        output = Crew(agents=[agent], tasks=[job(agent=agent)]).kickoff()
        assert output.raw == "You said: Current Task: Do it."
        assert output.token_usage.successful_requests == 1
        assert output.tasks_output[0].messages


# Definitions and input ---------------------------------------------------------


def test_a_name_is_needed_and_unique() -> None:
    agent = Agent(role="r", goal="g", backstory="b", llm="openai/gpt-4o-mini")
    with pytest.raises(DefinitionError, match="non-empty"):
        DBOSAgent(agent_name=" ", orig_agent=agent)
    name = unique("twice")
    DBOSAgent(agent_name=name, orig_agent=agent)
    with pytest.raises(DefinitionError, match="already"):
        DBOSAgent(agent_name=name, orig_agent=agent)
    with pytest.raises(DefinitionError, match="callable that returns one"):
        DBOSAgent(agent_name=unique("odd"), orig_agent=lambda: "no agent")  # type: ignore[arg-type,return-value]


def test_an_agent_can_be_built_anew_for_each_run() -> None:
    built: list[Agent] = []

    with ModelServer(echo) as server:

        def build() -> Agent:
            built.append(clerk(server))
            return built[-1]

        agent = DBOSAgent(agent_name=unique("factory"), orig_agent=build)
        count = len(built)
        agent.kickoff("One.")
        agent.kickoff("Two.")
        assert len(built) == count + 2


def test_what_another_process_could_not_rebuild_is_refused_before_anything_ran() -> None:
    class Local(BaseModel):
        name: str

    @tool
    def extra(key: str) -> str:
        """Not a tool of the agent."""
        return key

    with ModelServer(echo) as server:
        agent = DBOSAgent(agent_name=unique("strict"), orig_agent=clerk(server))
        with pytest.raises(UnstorableInputError, match="top level"):
            agent.execute_task(job(output_pydantic=Local))
        with pytest.raises(UnstorableInputError, match="top level"):
            agent.kickoff("Who?", response_format=Local)
        with pytest.raises(UnstorableInputError, match=r"'extra'.*Add it to the tools"):
            agent.execute_task(job(), tools=[extra])
        with pytest.raises(UnstorableInputError, match="JSON form"):
            agent.kickoff([{"role": "user", "content": object()}])
        assert server.requests == []


def test_a_workflow_id_is_not_shared_between_different_work() -> None:
    with ModelServer(echo) as server:
        one = DBOSAgent(agent_name=unique("one"), orig_agent=clerk(server))
        two = DBOSAgent(agent_name=unique("two"), orig_agent=clerk(server))
        run_id = unique("shared")
        with SetWorkflowID(run_id):
            first = one.kickoff("Hello.")
        with SetWorkflowID(run_id):
            assert one.kickoff("Hello.").raw == first.raw
        assert len(server.requests) == 1
        with pytest.raises(RunConflictError, match="another agent"), SetWorkflowID(run_id):
            two.kickoff("Hello.")
        with pytest.raises(RunConflictError, match="another arguments"), SetWorkflowID(run_id):
            one.kickoff("Goodbye.")
        assert len(server.requests) == 1


# LLM -------------------------------------------------------------------------


def test_one_layer_of_retries_for_what_can_pass() -> None:
    replies = [error(429, retry_after=0.2), error(500), error(503), text("At last.")]
    with ModelServer(replies) as server:
        agent = DBOSAgent(
            agent_name=unique("patient"), orig_agent=clerk(server), llm_step_config=FAST
        )
        assert agent.kickoff("Hello.").raw == "At last."
        assert len(server.requests) == 4
        arrivals = [request.received_at for request in server.requests]
        assert arrivals[1] - arrivals[0] >= 0.2


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_can_not_pass_is_not_tried_again(status: int) -> None:
    with ModelServer(lambda request: error(status)) as server:
        agent = DBOSAgent(
            agent_name=unique("hopeless"), orig_agent=clerk(server), llm_step_config=FAST
        )
        with pytest.raises(Exception, match=r"status|Error|failed|not found"):
            agent.kickoff("Hello.")
        assert len(server.requests) == 1


def test_no_retry_if_told_so() -> None:
    with ModelServer(lambda request: error(500)) as server:
        agent = DBOSAgent(
            agent_name=unique("once"), orig_agent=clerk(server), llm_step_config=StepConfig()
        )
        with pytest.raises(Exception, match=r"status|Error|failed|not found"):
            agent.kickoff("Hello.")
        assert len(server.requests) == 1


@DBOS.workflow()
def just_the_model() -> list[Any]:
    llm = _now["llm"]
    return [llm.call("Hello."), note("between"), llm.call("Goodbye.")]


def test_a_durable_llm_records_in_any_workflow_and_is_plain_outside() -> None:
    trace.clear()
    with ModelServer(echo) as server:
        llm = model(server)
        durable = DBOSLLM(llm, step_config=FAST)
        assert isinstance(durable, type(llm))
        assert isinstance(durable, DBOSLLM)
        assert durable.supports_function_calling()
        assert durable.call("Plain.") == llm.call("Plain.")
        _now["llm"] = durable
        run_id = unique("model")
        with SetWorkflowID(run_id):
            assert just_the_model() == ["You said: Hello.", "between", "You said: Goodbye."]
        replays(run_id, server)
        used = durable.get_token_usage_summary().successful_requests
        DBOS.fork_workflow(run_id, 10_000).get_result()
        assert durable.get_token_usage_summary().successful_requests == used + 2


def test_an_llm_answers_with_a_model_defined_anywhere() -> None:
    class Local(BaseModel):
        name: str

    with ModelServer(lambda r: structured({"name": "Ada"})) as server:
        _now["llm"], _now["model"] = DBOSLLM(model(server)), Local
        run_id = unique("local")
        with SetWorkflowID(run_id):
            assert ask_for_model() == "Ada"
        assert DBOS.fork_workflow(run_id, 10_000).get_result() == "Ada"
        assert len(server.requests) == 1


@DBOS.workflow()
def ask_for_model() -> str:
    return str(_now["llm"].call("Who?", response_model=_now["model"]).name)


# Executor ----------------------------------------------------------------------


def test_the_executor_opens_a_run_for_a_durable_agent() -> None:
    with ModelServer(echo) as server:
        agent = DBOSAgent(agent_name=unique("opened"), orig_agent=clerk(server))
        assert agent.executor_class is DBOSAgentExecutor
        task = job(agent=agent)
        agent.create_agent_executor(task=task)
        run_id = unique("executor")
        with SetWorkflowID(run_id):
            result = agent.agent_executor.invoke(
                {"input": "Say it.", "tool_names": "", "tools": ""}
            )
        assert result["output"].startswith("You said")
        assert agent.retrieve(run_id).get_result() == result
        assert len(server.requests) == 1


def test_the_executor_of_an_ordinary_agent_says_that_nothing_is_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ModelServer(echo) as server:
        agent = clerk(server, executor_class=DBOSAgentExecutor)
        with caplog.at_level(logging.WARNING, logger="crewai_dbos"):
            assert agent.execute_task(job()) == "You said: Current Task: Do it."
        assert "is no DBOSAgent" in caplog.text


# Outside ---------------------------------------------------------------------


@DBOS.step()
def agent_in_step() -> str:
    return str(_now["agent"].kickoff("Hello.").raw)


@DBOS.workflow()
def workflow_with_agent_in_step() -> str:
    return agent_in_step()


def test_an_agent_inside_a_step_says_that_it_is_not_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ModelServer(echo) as server:
        name = unique("stepped")
        _now["agent"] = DBOSAgent(agent_name=name, orig_agent=clerk(server))
        with caplog.at_level(logging.WARNING, logger="crewai_dbos"):
            assert workflow_with_agent_in_step() == "You said: Current Task: Hello."
        assert f"DBOSAgent '{name}' runs inside a DBOS step" in caplog.text


def test_a_sync_call_in_an_event_loop_is_refused_as_crewai_does() -> None:
    with ModelServer(echo) as server:
        agent = DBOSAgent(agent_name=unique("looped"), orig_agent=clerk(server))

        async def main() -> Any:
            with pytest.raises(RuntimeError, match="aexecute_task"):
                agent.execute_task(job())
            return await agent.kickoff("Hello.")

        assert asyncio.run(main()).raw == "You said: Current Task: Hello."


# Drift -----------------------------------------------------------------------


def test_other_prompts_use_the_record_and_say_so_once(caplog: pytest.LogCaptureFixture) -> None:
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
        orig = clerk(server, tools=[peek])
        agent = DBOSAgent(agent_name=unique("drifting"), orig_agent=orig)
        run_id = unique("drift")
        with SetWorkflowID(run_id):
            agent.execute_task(job())
        orig.backstory = "Rewritten."
        fork = DBOS.fork_workflow(run_id, 10_000).get_workflow_id()
        with caplog.at_level(logging.WARNING, logger="crewai_dbos"):
            assert agent.retrieve(fork).get_result() == "Seen."
        assert caplog.text.count("recorded with other messages") == 1
        assert len(server.requests) == 2


def test_a_structural_change_stops_the_run_until_the_code_is_put_right() -> None:
    def check(output: Any) -> tuple[bool, Any]:
        return True, output.raw

    with ModelServer(echo) as server:
        orig = clerk(server, inject_date=True, guardrail=check)
        agent = DBOSAgent(agent_name=unique("restructured"), orig_agent=orig)
        run_id = unique("structure")
        with SetWorkflowID(run_id):
            answer = agent.kickoff("Hello.").raw
        orig.inject_date = False
        fork = DBOS.fork_workflow(run_id, 10_000).get_workflow_id()
        with pytest.raises(
            DriftError, match=r"next comes agent:.*/date#1, but .*/llm#1 was called"
        ):
            agent.retrieve(fork).get_result()
        status = agent.retrieve(fork).get_status()
        assert status.status == "CANCELLED"
        assert "next comes" in status.attributes["crewai_dbos"]["stopped"]
        orig.inject_date = True
        DBOS.resume_workflow(fork)
        assert agent.retrieve(fork).get_result().raw == answer
        assert len(server.requests) == 1
