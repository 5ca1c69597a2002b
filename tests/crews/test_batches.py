"""One kickoff for each of several inputs: every item is done, and done once."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crewai import Crew
from crewai.crews.crew_output import CrewOutput
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID

from crewai_dbos import (
    BatchError,
    DBOSCrew,
    DefinitionError,
    RunConflictError,
    UnstorableInputError,
)
from crewai_dbos.testing import ModelServer, Request, ToolCall, error, hang, text, tool_calls
from crews.scenarios import agent, answer, asked, task
from crews.test_runs import Opaque
from support.entries import how_many
from support.names import unique
from support.python import Program
from support.serving import Serve

pytestmark = pytest.mark.usefixtures("no_queues_left")

TOPICS = ("otters", "badgers", "voles", "newts")


def build() -> Crew:
    clerk = agent("Clerk")
    return Crew(agents=[clerk], tasks=[task("Find {topic}", clerk), task("Sum up", clerk)])


def durable() -> DBOSCrew:
    return DBOSCrew(crew_name=unique("batch"), orig_crew=build)


INPUTS = [{"topic": topic} for topic in TOPICS]


@pytest.fixture(scope="module")
def no_queues_left(launched: None) -> Iterator[None]:
    """Their threads would look into them as long as there are tests of crews."""
    yield
    for queue in DBOS.list_queues():
        DBOS.delete_queue(queue.name)


def test_each_item_is_a_run(serve: Serve) -> None:
    serve()
    crew = durable()
    with SetWorkflowID(crew.crew_name):
        outputs = crew.kickoff_for_each(INPUTS)
    for topic, output in zip(TOPICS, outputs, strict=True):
        assert output.raw == f"Clerk on Sum up given [Clerk on Find {topic}]"
    for number, output in enumerate(outputs, 1):
        assert crew.retrieve(f"{crew.crew_name}/{number}").get_result() == output
    assert crew.usage_metrics.successful_requests == 2 * len(TOPICS)


def test_for_async_code(serve: Serve) -> None:
    serve()
    crew = durable()

    async def both() -> list[Any]:
        first = await crew.kickoff_for_each_async(INPUTS[:2])
        return first + await crew.akickoff_for_each(INPUTS[2:], concurrency=1)

    outputs = asyncio.run(both())
    for topic, output in zip(TOPICS, outputs, strict=True):
        assert f"Find {topic}" in output.raw


def test_no_more_at_once_than_asked_for(serve: Serve) -> None:
    lock, at_once, most = threading.Lock(), Counter[str](), [0]
    held = hang()

    def script(request: Request) -> Any:
        if asked(request).startswith("Find"):
            with lock:
                at_once["now"] += 1
                most[0] = max(most[0], at_once["now"])
                return held if at_once["now"] <= 2 and not held._released else answer(request)
        with lock:
            at_once["now"] -= 1
        return answer(request)

    serve(script)
    crew = durable()
    done: list[Any] = []
    thread = threading.Thread(
        target=lambda: done.extend(crew.kickoff_for_each(INPUTS, concurrency=2))
    )
    thread.start()
    held.wait_until_held(2)
    held.release()
    thread.join()
    assert len(done) == len(TOPICS)
    assert most[0] == 2


def test_failures_do_not_stop_the_others_and_only_they_are_done_again(serve: Serve) -> None:
    broken = {"Find badgers", "voles"}

    def script(request: Request) -> Any:
        last = str(request.messages)
        wrong = asked(request) in broken or (
            "voles" in broken and "Find voles" in last and asked(request) == "Sum up"
        )
        return error(401) if wrong else answer(request)

    server = serve(script)
    crew = durable()
    with pytest.raises(BatchError) as raised, SetWorkflowID(crew.crew_name):
        crew.kickoff_for_each(INPUTS)
    assert list(raised.value.errors) == [1, 2]
    assert "2 of 4 items" in str(raised.value)
    assert [output and output.raw[:5] for output in raised.value.outputs] == [
        "Clerk",
        None,
        None,
        "Clerk",
    ]
    with SetWorkflowID(crew.crew_name):
        mixed = crew.kickoff_for_each(INPUTS, return_exceptions=True)
    assert [isinstance(each, CrewOutput) for each in mixed] == [True, False, False, True]

    broken.clear()
    before = len(server.requests)
    with SetWorkflowID(crew.crew_name):
        outputs = crew.kickoff_for_each(INPUTS)
    for topic, output in zip(TOPICS, outputs, strict=True):
        assert output.raw == f"Clerk on Sum up given [Clerk on Find {topic}]"
    # Badgers needs both calls, voles only the second.
    assert len(server.requests) - before == 3


@pytest.mark.parametrize("why", ["empty", "guardrail", "tolerated"])
def test_what_failed_without_an_error_of_a_call_is_asked_again(why: str, serve: Serve) -> None:
    broken = [True]
    sent: list[str] = []

    @tool
    def send(query: str) -> str:
        """Send it."""
        sent.append(query)
        return "sent"

    @tool
    def look_up(query: str) -> str:
        """Look it up."""
        sent.append("looked up")
        raise ValueError

    def one_more_try() -> Crew:
        clerk = agent("Clerk", tools=[send, look_up], max_retry_limit=0)
        guardrail = lambda output: (not output.raw.startswith("Bad"), output.raw)  # noqa: E731
        second = task("Sum up", clerk, guardrail=guardrail, guardrail_max_retries=1)
        return Crew(agents=[clerk], tasks=[task("Find {topic}", clerk), second])

    def script(request: Request) -> Any:
        if asked(request) == "Sum up":
            bad = {"empty": text(""), "guardrail": text("Bad."), "tolerated": error(401)}[why]
            return bad if broken else text("Good.")
        calls = [ToolCall("look_up", {"query": "x"}), ToolCall("send", {"query": "x"})]
        return tool_calls(*calls) if not request.tool_results else answer(request)

    server = serve(script)
    crew = DBOSCrew(crew_name=unique("batch"), orig_crew=one_more_try)
    with pytest.raises(BatchError), SetWorkflowID(crew.crew_name):
        crew.kickoff_for_each(INPUTS[:1])
    before, done = len(server.requests), len(sent)
    broken.clear()
    with SetWorkflowID(crew.crew_name):
        (output,) = crew.kickoff_for_each(INPUTS[:1])
    assert output.raw == "Good."
    assert len(sent) == done, "a finished tool call was made again"
    assert len(server.requests) - before == 1


def test_in_a_workflow_of_the_users(serve: Serve) -> None:
    server = serve()
    crew = durable()

    @DBOS.workflow(name=crew.crew_name)
    def all_of_them() -> list[str]:
        return [output.raw for output in crew.kickoff_for_each(INPUTS)]

    with SetWorkflowID(crew.crew_name):
        expected = all_of_them()
    assert [topic in raw for topic, raw in zip(TOPICS, expected, strict=True)] == [True] * 4
    before = len(server.requests)
    assert DBOS.fork_workflow(crew.crew_name, 1000).get_result() == expected
    assert len(server.requests) == before


def test_a_generator_of_inputs(serve: Serve) -> None:
    serve()
    crew = durable()

    @DBOS.step()
    def in_a_step() -> list[Any]:
        return [output.raw for output in crew.kickoff_for_each(each for each in INPUTS[:2])]  # type: ignore[arg-type]

    assert len(in_a_step()) == 2
    assert len(crew.kickoff_for_each(each for each in INPUTS[:2])) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "limits",
    [
        {"concurrency": 0},
        {"concurrency": "many"},
        {"limiter": {"limit": 5}},
        {"limiter": {"limit": 0, "period": 1.0}},
    ],
    ids=str,
)
def test_limits_that_let_nothing_through(limits: dict[str, Any], serve: Serve) -> None:
    serve()
    crew = durable()
    with pytest.raises(DefinitionError, match="not "), SetWorkflowID(crew.crew_name):
        crew.kickoff_for_each(INPUTS[:1], **limits)
    with SetWorkflowID(crew.crew_name):
        assert len(crew.kickoff_for_each(INPUTS[:1])) == 1


def test_a_batch_under_the_id_of_a_kickoff(serve: Serve) -> None:
    serve()
    crew = durable()
    with SetWorkflowID(crew.crew_name):
        crew.kickoff(INPUTS[0])
    told = "belongs to a kickoff of a crew, and this is a batch of a crew"
    with pytest.raises(RunConflictError, match=told), SetWorkflowID(crew.crew_name):
        crew.kickoff_for_each(INPUTS)


def test_what_is_refused(serve: Serve) -> None:
    server = serve()
    crew = durable()
    with pytest.raises(UnstorableInputError):
        crew.kickoff_for_each([*INPUTS, {"topic": Opaque()}])
    assert not server.requests, "something was begun"
    with SetWorkflowID(crew.crew_name):
        crew.kickoff_for_each(INPUTS[:1])
    with (
        pytest.raises(RunConflictError, match="differs in its items"),
        SetWorkflowID(crew.crew_name),
    ):
        crew.kickoff_for_each(INPUTS[:2])


# Killed -----------------------------------------------------------------------------------


@pytest.mark.crash
@pytest.mark.some_entries
@pytest.mark.parametrize(
    ("calls_again", "kind", "wanted"),
    [(True, "sqlite", (20, 60)), (False, "postgres", (20, 200))],
    ids=["called again", "restarted"],
)
def test_many_items_killed_three_times(
    calls_again: bool,
    kind: str,
    wanted: tuple[int, int],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    items, at_once = how_many(*wanted), how_many(2, 10)
    database_url = f"sqlite:///{tmp_path}/dbos.sqlite"
    if kind == "postgres":
        database_url = request.getfixturevalue("postgres").create_database()
    kills = [items // 5, items // 2, items * 3 // 4]
    running: list[Program] = []
    lock = threading.Lock()

    def script(asking: Request) -> Any:
        with lock:
            if kills and asking.number >= kills[0]:
                kills.pop(0)
                running[-1].kill()
        return answer(asking)

    def process(*arguments: str) -> tuple[int, str]:
        folder = str(Path(__file__).parents[1])
        started = Program(
            *("-m", "crews.batch_program", database_url, str(items), str(at_once), *arguments),
            folder=tmp_path,
            env={**os.environ, **server.env, "PYTHONPATH": folder},
        )
        running.append(started)
        out, errors = started.communicate(timeout=240)
        with (tmp_path / "log").open("a") as log:
            log.write(errors)
        assert started.returncode is not None
        return started.returncode, out

    with ModelServer(script) as server:
        assert process("call")[0] == -9
        for _ in range(2):
            assert process(*(["call"] if calls_again else []))[0] == -9
        code, out = process(*(["call"] if calls_again else []))
        assert code == 0, (tmp_path / "log").read_text()[-3000:]
        if not calls_again:
            code, out = process("call")
        asked_for = Counter(asked(request) for request in server.requests)
    lines = out.splitlines()
    assert lines == [f"{n}: Clerk on Item {n}" for n in range(1, items + 1)]
    assert len(asked_for) == items
    # Of those in flight when a kill came, each once more.
    again = [what for what, times in asked_for.items() if times > 1]
    assert max(asked_for.values()) <= 4
    assert len(again) <= 3 * (at_once + 1), again
