"""How runs of a crew are started, found again, refused and stopped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource
from crewai.llm_overlay import llm_overlay
from crewai.tools import tool
from crewai.types.streaming import CrewStreamingOutput
from dbos import DBOS, SetEnqueueOptions, SetWorkflowID, SetWorkflowTimeout
from pydantic import BaseModel

from crewai_dbos import (
    DBOSLLM,
    DBOSAgent,
    DBOSCrew,
    DefinitionError,
    RunConflictError,
    StepConfig,
    UnstorableInputError,
)
from crewai_dbos._crews import run_crew
from crewai_dbos.testing import Request, ToolCall, hang, structured, text, tool_calls
from crews.scenarios import (
    agent,
    answer,
    asked,
    at_once,
    delegate,
    model,
    role,
    searching,
    sequential,
    task,
    turns,
)
from support.entries import how_many
from support.leaks import left_by
from support.names import unique
from support.schemas import any_value_of
from support.serving import Serve


def durable(build: Callable[[], Crew] = sequential, **options: Any) -> DBOSCrew:
    return DBOSCrew(crew_name=unique("crew"), orig_crew=build, **options)


def small() -> Crew:
    clerk = agent("Clerk")
    return Crew(agents=[clerk], tasks=[task("Do {topic}", clerk)])


# Starting and finding again ---------------------------------------------------------------


def test_a_run_is_started_and_retrieved(serve: Serve) -> None:
    server = serve()
    crew = durable(small)
    run = crew.start({"topic": "otters"})
    output = run.get_result()
    assert output.raw == "Clerk on Do otters"
    assert run.get_status().status == "SUCCESS"
    assert crew.retrieve(run.workflow_id).get_result() == output
    plain = DBOS.retrieve_workflow(run.workflow_id).get_result()
    assert plain["fields"]["raw"] == output.raw
    assert len(server.requests) == 1


def test_the_same_id_is_the_same_run(serve: Serve) -> None:
    server = serve()
    crew = durable(small)
    outputs = []
    for _ in range(2):
        with SetWorkflowID(f"{crew.crew_name}-once"):
            outputs.append(crew.kickoff({"topic": "otters"}))
    assert outputs[0] == outputs[1]
    assert len(server.requests) == 1
    with (
        pytest.raises(RunConflictError, match="differs in its inputs"),
        SetWorkflowID(f"{crew.crew_name}-once"),
    ):
        crew.kickoff({"topic": "badgers"})


def test_every_way_of_kicking_off(serve: Serve) -> None:
    server = serve()
    crew = durable(small)

    async def ways() -> list[Any]:
        first = await crew.kickoff_async({"topic": "otters"})
        return [first, await crew.akickoff({"topic": "otters"})]

    outputs = [crew.kickoff({"topic": "otters"}), *asyncio.run(ways())]
    assert [output.raw for output in outputs] == ["Clerk on Do otters"] * 3
    assert len(server.requests) == 3
    assert crew.calculate_usage_metrics() == outputs[0].token_usage
    assert crew.usage_metrics == outputs[0].token_usage


def test_llms_that_an_overlay_puts_in_are_recorded(serve: Serve) -> None:
    server = serve(lambda request: text(f"by {request.model}"))

    def build() -> Crew:
        who = Agent(role="Clerk for {who}", goal="Work", backstory="Old.", llm="gpt-4o-mini")
        return Crew(agents=[who], tasks=[task("Do", who)])

    crew, run_id = durable(build()), unique("run")
    with llm_overlay({"Clerk for cats": "openai/gpt-4o"}):
        with SetWorkflowID(run_id):
            assert crew.kickoff({"who": "cats"}).raw == "by gpt-4o"
        assert crew.kickoff({"who": "dogs"}).raw == "by gpt-4o-mini"
    asked = len(server.requests)
    last = DBOS.list_workflow_steps(run_id)[-1]["function_id"]
    fork = DBOS.fork_workflow(run_id, last + 1).get_workflow_id()
    assert crew.retrieve(fork).get_result().raw == "by gpt-4o"
    assert len(server.requests) == asked == 2


def test_on_a_queue(serve: Serve) -> None:
    serve()
    crew = durable(small)
    DBOS.register_queue(crew.crew_name, polling_interval_sec=0.05)
    runs = [crew.start({"topic": topic}, queue=crew.crew_name) for topic in ("otters", "badgers")]
    assert [run.get_result().raw for run in runs] == ["Clerk on Do otters", "Clerk on Do badgers"]
    assert runs[0].get_status().queue_name == crew.crew_name


def test_on_a_queue_with_partitions(serve: Serve) -> None:
    serve()
    crew, queue = durable(small), unique("queue")
    DBOS.register_queue(queue, partition_concurrency=1, polling_interval_sec=0.05)
    with pytest.raises(DefinitionError, match="queue_partition_key"):
        crew.start({"topic": "otters"}, queue=queue)
    with SetEnqueueOptions(queue_partition_key="ann"):
        run = crew.start({"topic": "otters"}, queue=queue)
    assert run.get_result().raw == "Clerk on Do otters"


def test_on_a_queue_that_nobody_has_registered(serve: Serve) -> None:
    """The run would wait for ever, and nobody would hear of it."""
    serve()
    crew = durable(small)
    queue, run_id = unique("queue"), unique("run")
    with SetWorkflowID(run_id), pytest.raises(DefinitionError) as refused:
        crew.start({"topic": "otters"}, queue=queue)
    assert f"DBOS.register_queue('{queue}')" in str(refused.value)
    assert DBOS.get_workflow_status(run_id) is None
    DBOS.register_queue(queue, polling_interval_sec=0.05)
    with SetWorkflowID(run_id):
        run = crew.start({"topic": "otters"}, queue=queue)
    assert run.get_result().raw == "Clerk on Do otters"


def test_in_a_workflow_of_the_users(serve: Serve) -> None:
    server = serve()
    crew = durable(small)

    @DBOS.workflow(name=crew.crew_name)
    def publish(topic: str) -> list[str]:
        return [crew.kickoff({"topic": each}).raw for each in (topic, "badgers", topic)]

    run_id = unique("publish")
    with SetWorkflowID(run_id):
        assert publish("otters") == [
            "Clerk on Do otters",
            "Clerk on Do badgers",
            "Clerk on Do otters",
        ]
    names = [step["function_name"] for step in DBOS.list_workflow_steps(run_id)]
    assert f"crew:{crew.crew_name}#2/task:1#1/agent:Clerk#1/llm#1" in names
    before = len(server.requests)
    for step in (3, 6, 100):
        assert len(DBOS.fork_workflow(run_id, step).get_result()) == 3
    assert len(server.requests) - before == 5


def test_a_failure_that_a_workflow_caught_is_caught_again(serve: Serve) -> None:
    def script(request: Request) -> Any:
        return answer(request) if "badgers" in asked(request) else text("")

    server = serve(script)
    crew = durable(small)

    @DBOS.workflow(name=crew.crew_name)
    def publish() -> str:
        try:
            return str(crew.kickoff({"topic": "otters"}).raw)
        except ValueError as error:
            return f"{crew.kickoff({'topic': 'badgers'}).raw} after: {error}"

    run_id = unique("publish")
    with SetWorkflowID(run_id):
        expected = publish()
    assert "Clerk on Do badgers after: " in expected
    before = len(server.requests)
    assert DBOS.fork_workflow(run_id, 1000).get_result() == expected
    assert len(server.requests) == before


def test_a_crew_in_a_tool_of_a_crew_is_recorded_call_by_call(serve: Serve) -> None:
    inner = durable(small)

    @tool
    def ask_the_others(topic: str) -> str:
        """Ask another crew."""
        return str(inner.kickoff({"topic": topic}).raw)

    def build() -> Crew:
        lead = agent("Lead", tools=[ask_the_others])
        return Crew(agents=[lead], tasks=[task("Lead {topic}", lead)])

    asks = tool_calls(*(ToolCall("ask_the_others", {"topic": t}) for t in ("voles", "newts")))
    server = serve(lambda r: asks if r.offered_tools and not r.tool_results else answer(r))
    run = durable(build).start({"topic": "otters"})
    output = run.get_result()
    assert output.raw == "Lead on Lead otters with Clerk on Do voles; Clerk on Do newts"
    steps = DBOS.list_workflow_steps(run.workflow_id)
    inside = [
        step for step in steps if f"crew:{inner.crew_name}#1/task:1#1" in step["function_name"]
    ]
    assert len(inside) == 2
    assert all("/tool:ask_the_others(" in step["function_name"] for step in inside)
    # Without the record of the tools themselves, their crews' requests are not made again.
    tools = [s["function_id"] for s in steps if s["function_name"].endswith(")#1")]
    before = len(server.requests)
    fork = DBOS.fork_workflow(run.workflow_id, min(tools)).workflow_id
    assert DBOS.retrieve_workflow(fork).get_result()["fields"]["raw"] == output.raw
    assert len(server.requests) - before <= 2


def test_an_output_that_a_callback_made_of_it(serve: Serve) -> None:
    def build() -> Crew:
        crew = small()
        crew.after_kickoff_callbacks = [lambda output: {"text": output.raw}]
        return crew

    serve()
    crew = durable(build)
    run = crew.start({"topic": "otters"})
    assert run.get_result() == {"text": "Clerk on Do otters"}
    assert crew.kickoff({"topic": "voles"}) == {"text": "Clerk on Do voles"}


class Notes:
    """Keeps what it is told of."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def tell(self, output: Any) -> None:
        self.told.append(output.raw)


@pytest.mark.parametrize("method", [False, True])
def test_a_callback_of_a_task_and_of_its_crew_is_called_once(method: bool, serve: Serve) -> None:
    """crewAI compares the two, and a bound method is made anew each time that it is asked for."""

    def build(notes: Notes) -> Crew:
        function = notes.tell
        clerk = agent("Clerk")
        do = task("Do {topic}", clerk, callback=function)
        return Crew(agents=[clerk], tasks=[do], task_callback=notes.tell if method else function)

    serve()
    alone, ours = Notes(), Notes()
    build(alone).kickoff({"topic": "otters"})
    crew = durable(lambda: build(ours))
    run = crew.start({"topic": "otters"})
    run.get_result()
    assert ours.told == alone.told == ["Clerk on Do otters"]
    last = DBOS.list_workflow_steps(run.workflow_id)[-1]["function_id"]
    DBOS.fork_workflow(run.workflow_id, last + 1).get_result()
    assert ours.told == alone.told


def test_a_run_that_recorded_a_callback_of_both_twice_goes_on(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 0.2.0 did, where its wrappers of the two were never equal."""
    notes = Notes()

    def build() -> Crew:
        clerk = agent("Clerk")
        tasks = [task("Do one", clerk, callback=notes.tell), task("Do two", clerk)]
        return Crew(agents=[clerk], tasks=tasks, task_callback=notes.tell)

    server, crew = serve(), durable(build)
    with monkeypatch.context() as then:
        then.setattr(run_crew.callbacks, "original", lambda function: None)
        run = crew.start({})
        expected = run.get_result().raw
    assert len(notes.told) == 3
    requests = len(server.requests)
    last = DBOS.list_workflow_steps(run.workflow_id)[-1]["function_id"]
    again = DBOS.fork_workflow(run.workflow_id, last + 1).get_workflow_id()
    assert crew.retrieve(again).get_result().raw == expected
    assert (len(notes.told), len(server.requests)) == (3, requests)


# Side by side -----------------------------------------------------------------------------


def test_tasks_at_once_are_at_work_at_once(serve: Serve) -> None:
    held = hang(text("A part."))

    def script(request: Request) -> Any:
        return held if "Part" in asked(request) else answer(request)

    serve(script)
    run = durable(at_once).start({"topic": "otters"})
    held.wait_until_held(3)
    held.release()
    assert [task.raw for task in run.get_result().tasks_output[:3]] == ["A part."] * 3


@pytest.mark.some_entries
def test_many_kickoffs_at_once(serve: Serve) -> None:
    server = serve(turns(lambda request: searching(asked(request))))
    crew = durable()
    number = how_many(10, 32)
    topics = [f"topic {each}" for each in range(number)]
    with ThreadPoolExecutor(number) as pool:
        outputs = list(pool.map(lambda topic: crew.kickoff({"topic": topic}), topics))
    for topic, output in zip(topics, outputs, strict=True):
        research = f"{topic} Researcher on Research {topic} with found Research {topic}"
        assert output.tasks_output[0].raw == research
        assert research in output.raw
        assert output.token_usage.successful_requests == 4
    assert len(server.requests) == 4 * number


# Stopping ---------------------------------------------------------------------------------


def test_a_cancelled_run_ends_and_is_resumed(serve: Serve) -> None:
    held = hang(text("Late."))

    def script(request: Request) -> Any:
        return held if "Part b" in asked(request) else answer(request)

    server = serve(script)
    run = durable(at_once).start({"topic": "otters"})
    held.wait_until_held()
    server.wait_for_requests(3)
    DBOS.cancel_workflow(run.workflow_id)
    held.release()
    with pytest.raises(Exception, match="cancelled"):
        run.get_result()
    before = len(server.requests)
    DBOS.resume_workflow(run.workflow_id)
    output = run.get_result()
    assert [task.raw for task in output.tasks_output[:3]] == [
        "Ann on Part a of otters",
        "Late.",
        "Eve on Part c of otters",
    ]
    assert len(server.requests) - before <= 4


def test_a_deadline_ends_a_run(serve: Serve) -> None:
    held = hang(text("Late."))
    serve(lambda request: held)
    crew = durable(small)
    with SetWorkflowTimeout(0.2):
        run = crew.start({"topic": "otters"})
    held.wait_until_held()
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(Exception, match="cancelled"):
            run.get_result()
        ended.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert ended.wait(20)
    held.release()
    waiting.join()
    assert run.get_status().status == "CANCELLED"


def test_an_error_of_one_of_several_tasks_is_the_runs(serve: Serve) -> None:
    from crewai_dbos.testing import error

    def script(request: Request) -> Any:
        return error(401) if "Part b" in asked(request) else answer(request)

    serve(script)
    crew = durable(at_once)
    run = crew.start({"topic": "otters"})
    with pytest.raises(Exception, match="Incorrect API key"):
        run.get_result()
    assert run.get_status().status == "ERROR"


# Streams ----------------------------------------------------------------------------------


def streaming() -> Crew:
    crew = small()
    crew.stream = True
    return crew


def test_a_stream(serve: Serve) -> None:
    serve()
    crew = durable(streaming)
    with SetWorkflowID(f"{crew.crew_name}-stream"):
        stream = crew.kickoff({"topic": "otters"})
    assert isinstance(stream, CrewStreamingOutput)
    chunks = "".join(chunk.content for chunk in stream)
    assert chunks == stream.result.raw == "Clerk on Do otters"
    assert crew.retrieve(f"{crew.crew_name}-stream").get_result() == stream.result

    async def again() -> Any:
        found = await crew.akickoff({"topic": "badgers"})
        return "".join([chunk.content async for chunk in found]), found.result.raw

    assert asyncio.run(again()) == ("Clerk on Do badgers",) * 2


# What is refused --------------------------------------------------------------------------


class Opaque:
    pass


def test_inputs_that_no_process_could_rebuild(serve: Serve) -> None:
    server = serve()
    crew = durable(small)
    with pytest.raises(UnstorableInputError, match="inputs can't be stored"):
        crew.kickoff({"topic": Opaque()})
    assert not server.requests


def test_an_output_model_that_no_process_could_import(serve: Serve) -> None:
    class Local(BaseModel):
        title: str

    def build() -> Crew:
        clerk = agent("Clerk")
        return Crew(agents=[clerk], tasks=[task("Do it", clerk, output_pydantic=Local)])

    server = serve()
    with pytest.raises(UnstorableInputError, match="output_pydantic of task 1"):
        durable(build).kickoff()
    assert not server.requests


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DBOSCrew(crew_name=" ", orig_crew=small), "crew_name must be"),
        (
            lambda: DBOSCrew(crew_name=unique("x"), orig_crew=lambda: 3),
            "orig_crew must be .* which returned 3",
        ),
        (
            lambda: DBOSCrew(crew_name=unique("x"), orig_crew=lambda n: n),
            "orig_crew is called without arguments, .* missing 1 required positional argument: 'n'",
        ),
        (lambda: durable(small, tool_step_config=True), "takes a StepConfig or a dict of .* bool"),
        (lambda: durable(small, tool_step_config={"look": 3}), "and got a int for 'look'"),
        (lambda: durable(small, llm_step_config=3), "llm_step_config takes a StepConfig, .* int"),
        (
            lambda: DBOSAgent(agent_name="x", orig_agent=agent("X"), llm_step_config=3),
            "llm_step_config takes a StepConfig",
        ),
        (lambda: DBOSLLM(model(), step_config=3), "step_config takes a StepConfig"),
        (lambda: durable(small, agent_step_configs={"Nobody": {}}), "the roles of the crew are"),
        (
            lambda: durable(small, agent_step_configs={"Clerk": {"retries": 3}}),
            "unknown 'retries'",
        ),
        (
            lambda: durable(tool_step_config={"serach": StepConfig()}),
            "tool_step_config names 'serach'",
        ),
        (lambda: durable(small).kickoff(from_checkpoint=object()), "from_checkpoint"),
    ],
)
def test_what_can_mean_nothing(make: Callable[[], Any], message: str, serve: Serve) -> None:
    serve()
    with pytest.raises(DefinitionError, match=message):
        make()


def test_the_same_id_for_sync_and_async_code(serve: Serve) -> None:
    server = serve()
    crew = durable(small)
    run_id = unique("both")

    async def later() -> Any:
        return await crew.akickoff({"topic": "otters"})

    with SetWorkflowID(run_id):
        output = crew.kickoff({"topic": "otters"})
    with SetWorkflowID(run_id):
        assert asyncio.run(later()) == output
    with SetWorkflowID(f"{run_id}-async"):
        output = asyncio.run(later())
    with SetWorkflowID(f"{run_id}-async"):
        assert crew.kickoff({"topic": "otters"}) == output
    with SetWorkflowID(f"{run_id}-async"):
        assert crew.start({"topic": "otters"}).get_result() == output
    with SetWorkflowID(run_id), pytest.raises(RunConflictError, match="differs in its inputs"):
        asyncio.run(crew.akickoff({"topic": "badgers"}))
    assert len(server.requests) == 2


def test_a_name_that_is_taken(serve: Serve) -> None:
    serve()
    crew = durable(small)
    with pytest.raises(DefinitionError, match="is defined already"):
        DBOSCrew(crew_name=crew.crew_name, orig_crew=small)


def test_in_an_event_loop(serve: Serve) -> None:
    serve()
    crew = durable(small)

    async def blocking() -> None:
        crew.kickoff({"topic": "otters"})

    with pytest.raises(RuntimeError, match="akickoff"):
        asyncio.run(blocking())


# Options ----------------------------------------------------------------------------------


def recorded_tools(crew: DBOSCrew) -> list[str]:
    run = crew.start({"topic": "otters"})
    run.get_result()
    steps = DBOS.list_workflow_steps(run.workflow_id)
    return [name for step in steps if "/tool:" in (name := step["function_name"])]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 1),
        ({"tool_step_config": None}, 0),
        ({"tool_step_config": {"search": None}}, 0),
        ({"tool_step_config": {"archive": StepConfig()}}, 1),
        ({"agent_step_configs": {"{topic} Researcher": {"tool_step_config": None}}}, 0),
    ],
)
def test_tools_are_recorded_unless_opted_out(
    options: dict[str, Any], count: int, serve: Serve
) -> None:
    serve(turns(searching("otters")))
    found = recorded_tools(durable(**options))
    assert len([name for name in found if "tool:search" in name]) == count


def test_nothing_is_left_in_the_home_folder(serve: Serve) -> None:
    serve()
    home = Path.home()
    crew = durable(small)
    crew.kickoff({"topic": "otters"})
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    crew.kickoff({"topic": "badgers"})
    after = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    assert after == before


def test_a_crew_instance_stays_as_it_was(serve: Serve) -> None:
    serve()
    crew = small()
    run = DBOSCrew(crew_name=unique("crew"), orig_crew=crew)
    for topic in ("otters", "badgers"):
        assert run.kickoff({"topic": topic}).raw == f"Clerk on Do {topic}"
    assert crew.tasks[0].description == "Do {topic}"
    assert crew.tasks[0].output is None
    assert isinstance(crew.agents[0], Agent)
    assert crew.agents[0].llm.get_token_usage_summary().total_tokens == 0


def test_what_replay_saved_is_on_the_record(serve: Serve) -> None:
    serve()
    crew = durable(small)
    run = crew.start({"topic": "otters"})
    spent = run.get_result().token_usage.total_tokens
    fork = DBOS.fork_workflow(run.workflow_id, 100)
    fork.get_result()
    attributes = DBOS.get_workflow_status(fork.workflow_id).attributes
    assert attributes["crewai_dbos"] == {"tokens_saved": spent}


# Time limits, knowledge ---------------------------------------------------------------------


def test_a_coworker_who_ran_out_of_time_did_so_on_recovery_too(serve: Serve) -> None:
    held = hang(text("Too late."))

    def script(request: Request) -> Any:
        if role(request) == "Slow":
            return held
        if request.assistant_turns == 0:
            return tool_calls(delegate("Take your time", "Slow"))
        return answer(request)

    def build() -> Crew:
        lead = agent("Lead", allow_delegation=True)
        slow = agent("Slow", max_execution_time=1, max_retry_limit=0)
        return Crew(agents=[lead, slow], tasks=[task("Do {topic}", lead)])

    server = serve(script)
    crew = durable(build)
    run = crew.start({"topic": "otters"})
    held.wait_until_held()
    threading.Timer(2, held.release).start()
    output = run.get_result()
    assert "timed out after 1 seconds" in output.raw
    before = len(server.requests)
    fork = DBOS.fork_workflow(run.workflow_id, 1000).workflow_id
    assert crew.retrieve(fork).get_result() == output
    assert len(server.requests) == before


def test_knowledge_sources_are_not_loaded_for_a_replay(serve: Serve) -> None:
    fact = "Otters sleep hand in hand."

    def build() -> Crew:
        source = StringKnowledgeSource(content=fact)
        clerk = agent("Clerk", knowledge_sources=[source])
        return Crew(agents=[clerk], tasks=[task("Know {topic}", clerk)])

    # What the model makes of the task to search with is the fact itself, so it is found.
    server = serve(lambda request: answer(request) if role(request) else text(fact))
    crew = durable(build)
    run = crew.start({"topic": "otters"})
    output = run.get_result()
    asked_with_knowledge = server.requests[-1].last_user_text
    assert fact in asked_with_knowledge
    before = len(server.all_requests)
    fork = DBOS.fork_workflow(run.workflow_id, 1000).workflow_id
    assert crew.retrieve(fork).get_result() == output
    assert len(server.all_requests) == before, "the sources were embedded again"


def test_sources_of_a_crew_are_not_loaded_for_a_replay(serve: Serve) -> None:
    fact = "Otters sleep hand in hand."

    def build() -> Crew:
        clerk = agent("Clerk")
        return Crew(
            agents=[clerk],
            tasks=[task("Know {topic}", clerk)],
            knowledge_sources=[StringKnowledgeSource(content=fact)],
            embedder={
                "provider": "openai",
                "config": {"model_name": "text-embedding-3-small"},
            },
        )

    server = serve(lambda request: answer(request) if role(request) else text(fact))
    crew = durable(build)
    run = crew.start({"topic": "otters"})
    output = run.get_result()
    assert fact in server.requests[-1].last_user_text
    assert any(name.endswith("/knowledge.query#1") for name in step_names(run.workflow_id))
    before = len(server.all_requests)
    fork = DBOS.fork_workflow(run.workflow_id, 1000).workflow_id
    assert crew.retrieve(fork).get_result() == output
    assert len(server.all_requests) == before, "the sources were embedded again"


def step_names(run_id: str) -> list[str]:
    return [step["function_name"] for step in DBOS.list_workflow_steps(run_id)]


def test_the_memory_that_a_crew_makes_for_itself(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))

    def build() -> Crew:
        clerk = agent("Clerk")
        tasks = [task("Learn {topic}", clerk), task("Use it", clerk)]
        return Crew(agents=[clerk], tasks=tasks, memory=True)

    def script(request: Request) -> Any:
        if request.schema_name == "ExtractedMemories":
            return structured({"memories": ["One fact.", "Another fact."]})
        return structured(any_value_of(request)) if request.schema_name else text("Fine.")

    server = serve(script)
    crew = durable(build)
    run = crew.start({"topic": "otters"})
    output = run.get_result()
    names = step_names(run.workflow_id)
    for task_number in (1, 2):
        for what in ("memory.recall", "memory.llm", "memory.save"):
            assert any(f"/task:{task_number}#1/" in name and f"/{what}" in name for name in names)
    before = len(server.all_requests)
    fork = DBOS.fork_workflow(run.workflow_id, 1000).workflow_id
    assert crew.retrieve(fork).get_result() == output
    assert len(server.all_requests) == before


def test_no_line_of_a_log_is_written_twice(serve: Serve, tmp_path: Path) -> None:
    serve()
    log = tmp_path / "log.txt"

    def build() -> Crew:
        clerk = agent("Clerk")
        tasks = [task("One {topic}", clerk), task("Two", clerk)]
        return Crew(agents=[clerk], tasks=tasks, output_log_file=str(log))

    crew = durable(build)
    run = crew.start({"topic": "otters"})
    run.get_result()
    lines = log.read_text().splitlines()
    assert len(lines) == 4
    fork = DBOS.fork_workflow(run.workflow_id, 1000).workflow_id
    crew.retrieve(fork).get_result()
    assert log.read_text().splitlines() == lines


# A long-lived worker ------------------------------------------------------------------------


@pytest.mark.some_entries
def test_many_kickoffs_leave_no_thread_and_little_memory(serve: Serve) -> None:
    server = serve()
    crew = durable(small)

    def kick_off(times: int) -> None:
        for number in range(times):
            crew.kickoff({"topic": f"topic {number}"})

    runs = how_many(8, 15)
    kick_off(runs)
    # A number: crewAI renews the clock of a crew with max_rpm, as others here have, each minute.
    threads = threading.active_count()
    assert left_by(server, lambda: kick_off(runs), runs) == {}
    # A pool of crewAI's may not have been full.
    assert threading.active_count() < threads + 15
