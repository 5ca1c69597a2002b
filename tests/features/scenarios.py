"""What an agent can do, each as a script of the model and a way to run it.

A scenario is run three times: by crewAI alone, by a DBOSAgent, and by forks of that run.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from crewai import LLM, Agent, Task
from crewai.agent.planning_config import PlanningConfig
from crewai.knowledge.knowledge import Knowledge
from crewai.knowledge.storage.base_knowledge_storage import BaseKnowledgeStorage
from crewai.memory.unified_memory import Memory
from crewai.tools import BaseTool, tool
from dbos import DBOS
from pydantic import BaseModel

from crewai_dbos.testing import (
    ModelServer,
    Reply,
    Request,
    ToolCall,
    context_length_exceeded,
    error,
    react_answer,
    react_call,
    structured,
    text,
    tool_calls,
)
from support.schemas import any_value_of

effects: list[str] = []
"""What the tools did, in the order in which they did it."""


class Person(BaseModel):
    name: str
    age: int


@tool
@DBOS.step()
def look_up(key: str) -> str:
    """Look up a value by its key."""
    effects.append(f"look_up {key}")
    return f"value of {key}"


@tool
@DBOS.step()
async def look_up_async(key: str) -> str:
    """Look up a value by its key, asynchronously."""
    await asyncio.sleep(0)
    effects.append(f"look_up_async {key}")
    return f"async value of {key}"


class Counter(BaseTool):
    name: str = "counter"
    description: str = "Counts how often it is used."
    max_usage_count: int | None = 2

    @DBOS.step()
    def _run(self, label: str) -> str:
        effects.append(f"counter {label}")
        return f"counted {label}"


@tool(result_as_answer=True)
@DBOS.step()
def final_report(topic: str) -> str:
    """Write the final report."""
    effects.append(f"final_report {topic}")
    return f"Report on {topic}"


@tool
@DBOS.step()
def broken(key: str) -> str:
    """Always fails."""
    effects.append(f"broken {key}")
    raise ValueError(f"no such key: {key}")


@dataclass
class Scenario:
    """One thing an agent does.

    Attributes:
        script: The model's replies.
        agent: Builds the agent, given its LLM.
        ask: Runs it; the default is a task.
        react: Whether the model has no native tool calls.
        llm: More options for the LLM.
        random_prompt: Whether crewAI puts something random into the prompt.
        shared_state: Whether it leaves something behind that another run of it would see.
    """

    script: Callable[[Request], Reply]
    agent: Callable[[Any], Agent]
    ask: Callable[[Agent], Any] = field(default=lambda agent: run_task(agent))
    react: bool = False
    llm: dict[str, Any] = field(default_factory=dict)
    shared_state: bool = False
    random_prompt: bool = False

    def build(self, server: ModelServer) -> Agent:
        options = {"model": "openai/gpt-4o-mini", "api_key": "sk-test", "base_url": server.base_url}
        llm = LLM(**{**options, **self.llm})
        if self.react:
            llm.__class__ = _without_native_tools(type(llm))
        return self.agent(llm)


_TEXT_ONLY: dict[type, type] = {}


def _without_native_tools(cls: type) -> type:
    if cls not in _TEXT_ONLY:
        body = {"supports_function_calling": lambda self: False, "__module__": __name__}
        _TEXT_ONLY[cls] = type("TextOnly", (cls,), body)
    return _TEXT_ONLY[cls]


def person(llm: Any, **options: Any) -> Agent:
    return Agent(
        role="Researcher", goal="Find things out", backstory="You are careful.", llm=llm, **options
    )


def run_task(agent: Agent, **options: Any) -> Any:
    task = Task(description="Find out about a and b.", expected_output="A text.", **options)
    return agent.execute_task(task)


def calls_then(answer: str, *turns: list[ToolCall]) -> Callable[[Request], Reply]:
    """Native: one turn of tool calls after another, then the answer."""

    def script(request: Request) -> Reply:
        if not request.offered_tools or request.assistant_turns >= len(turns):
            return text(answer)
        return tool_calls(*turns[request.assistant_turns])

    return script


def react_then(answer: str, *turns: ToolCall) -> Callable[[Request], Reply]:
    """ReAct: one tool call in text after another, then the answer."""

    def script(request: Request) -> Reply:
        if request.assistant_turns >= len(turns):
            return react_answer(answer)
        turn = turns[request.assistant_turns]
        return react_call(turn.name, turn.arguments)

    return script


A = ToolCall("look_up", {"key": "a"})
B = ToolCall("look_up", {"key": "b"})


def _context_length(request: Request) -> Reply:
    if "Summarize" in str(request.messages) or "summar" in request.last_user_text.lower():
        return text("<summary>a is known: value of a</summary>")
    if request.tool_results:
        return context_length_exceeded()
    if request.assistant_turns or "a is known" in str(request.messages):
        return text("Done after compaction.")
    return tool_calls(A)


@tool
@DBOS.step()
def read_log(day: str) -> str:
    """Read the log of a day: far too much text."""
    effects.append(f"read_log {day}")
    return "\n".join(f"{day} line {n}: all is well" for n in range(6000))


def _reads_what_was_put_aside(request: Request) -> Reply:
    if not request.tool_results:
        return tool_calls(ToolCall("read_log", {"day": "monday"}))
    last = request.tool_results[-1][1]
    path = re.search(r"file path `([^`]+)`", last)
    if path:
        lines = {"file_path": path[1], "start_line": 4000, "line_count": 1}
        return tool_calls(ToolCall("read_a_deferred_tool_result", lines))
    return text(last.strip())


def _too_long(request: Request) -> Reply:
    conversation = str(request.messages)
    if not request.offered_tools:
        return text(f"<summary>{len(conversation)} characters, all is well</summary>")
    days = ["monday", "tuesday", "wednesday", "thursday"]
    if "all is well</summary>" in conversation or "characters, all" in conversation:
        return text("All was well.")
    if request.assistant_turns < len(days):
        return tool_calls(ToolCall("read_log", {"day": days[request.assistant_turns]}))
    return text("Not reached.")


def _memory(request: Request) -> Reply:
    if request.schema_name == "ExtractedMemories":
        return structured({"memories": ["The sky over a is blue.", "b is larger than a."]})
    if request.schema_name:
        return structured(any_value_of(request))
    return text("The answer from memory.")


def _planning(request: Request) -> Reply:
    names = request.offered_tools
    if "create_reasoning_plan" in names:
        steps = [
            {
                "step_number": n,
                "description": f"Look up {k}",
                "tool_to_use": "look_up",
                "depends_on": [],
            }
            for n, k in ((1, "a"), (2, "b"))
        ]
        return tool_calls(
            ToolCall(
                "create_reasoning_plan", {"plan": "Look up both", "steps": steps, "ready": True}
            )
        )
    if names and not request.tool_results:
        key = "b" if "Look up b" in str(request.messages) else "a"
        return tool_calls(ToolCall("look_up", {"key": key}))
    if request.schema_name:
        return structured(any_value_of(request))
    return text(f"Found it after {len(request.tool_results)} look-ups.")


def _guarded(request: Request) -> Reply:
    if request.schema_name == "LLMGuardrailResult":
        return structured({"valid": True, "feedback": None})
    return text("An answer.")


def _fails_once_for_good(request: Request) -> Reply:
    # A bad request is not retried by us; crewAI's agent starts the task again.
    return error(400, message="malformed") if request.number == 1 else text("Second time lucky.")


def _shouts(output: Any) -> tuple[bool, Any]:
    return True, output.raw.upper()


def _refuses(output: Any) -> tuple[bool, Any]:
    return False, "Not good enough."


def embed(texts: list[str]) -> list[list[float]]:
    """A local embedder: counts of a few letters."""
    effects.append(f"embed {len(texts)}")
    return [[float(t.count(c)) + 0.1 for c in "aeiostr "] for t in texts]


def _with_memory(llm: Any) -> Agent:
    import tempfile

    memory = Memory(llm=llm, embedder=embed, storage=tempfile.mkdtemp(prefix="memory-"))
    return person(llm, memory=memory)


class Shelf(BaseKnowledgeStorage):
    """A user's own knowledge storage: one document, found by any query."""

    def search(self, query: list[str], *args: Any, **kwargs: Any) -> list[Any]:
        effects.append(f"query {query[0]}")
        return [{"id": "1", "content": "a is blue", "metadata": {}, "score": 0.9}]

    async def asearch(self, query: list[str], *args: Any, **kwargs: Any) -> list[Any]:
        return self.search(query)

    def save(self, documents: list[str]) -> None:
        """Nothing is kept."""

    async def asave(self, documents: list[str]) -> None:
        """Nothing is kept."""

    def reset(self) -> None:
        """Nothing was kept."""

    async def areset(self) -> None:
        """Nothing was kept."""


def _with_knowledge(llm: Any) -> Agent:
    return person(llm, knowledge=Knowledge("shelf", sources=[], storage=Shelf()))


SCENARIOS: dict[str, Scenario] = {
    "answer": Scenario(lambda r: text("42."), person),
    "native": Scenario(
        calls_then("Both known.", [A], [B]), lambda llm: person(llm, tools=[look_up])
    ),
    "native parallel": Scenario(
        calls_then("Both known.", [A, B, ToolCall("look_up", {"key": "c"})], [A, B]),
        lambda llm: person(llm, tools=[look_up]),
    ),
    "native parallel, equal calls": Scenario(
        calls_then("Twice the same.", [A, A]), lambda llm: person(llm, tools=[look_up])
    ),
    "native parallel, equal calls, cached": Scenario(
        calls_then("Once is enough.", [A, A], [A]),
        lambda llm: person(llm, tools=[look_up], cache=True),
    ),
    "react": Scenario(
        react_then("Both known.", A, B), lambda llm: person(llm, tools=[look_up]), react=True
    ),
    "react, cached": Scenario(
        react_then("Known.", A, B, A),
        lambda llm: person(llm, tools=[look_up], cache=True),
        react=True,
    ),
    "react, tool raises": Scenario(
        react_then("It is broken.", ToolCall("broken", {"key": "a"})),
        lambda llm: person(llm, tools=[broken]),
        react=True,
    ),
    "native, tool raises": Scenario(
        calls_then("It is broken.", [ToolCall("broken", {"key": "a"})]),
        lambda llm: person(llm, tools=[broken]),
    ),
    "async tool": Scenario(
        calls_then("Done.", [ToolCall("look_up_async", {"key": "a"})]),
        lambda llm: person(llm, tools=[look_up_async]),
    ),
    "async tool, react": Scenario(
        react_then("Done.", ToolCall("look_up_async", {"key": "a"})),
        lambda llm: person(llm, tools=[look_up_async]),
        react=True,
    ),
    "max_usage_count": Scenario(
        calls_then("Done.", *[[ToolCall("counter", {"label": str(n)})] for n in range(3)]),
        lambda llm: person(llm, tools=[Counter()]),
    ),
    "result_as_answer": Scenario(
        calls_then("never asked", [A], [ToolCall("final_report", {"topic": "a"})]),
        lambda llm: person(llm, tools=[look_up, final_report]),
    ),
    "result_as_answer, react": Scenario(
        react_then("never asked", ToolCall("final_report", {"topic": "a"})),
        lambda llm: person(llm, tools=[final_report]),
        react=True,
    ),
    "max_iter": Scenario(
        calls_then("Forced.", *[[ToolCall("look_up", {"key": str(n)})] for n in range(9)]),
        lambda llm: person(llm, tools=[look_up], max_iter=3),
    ),
    "context length": Scenario(_context_length, lambda llm: person(llm, tools=[look_up])),
    "large result put aside": Scenario(
        _reads_what_was_put_aside, lambda llm: person(llm, tools=[read_log]), random_prompt=True
    ),
    "context length, several summaries at once": Scenario(
        _too_long, lambda llm: person(llm, tools=[read_log], use_better_compaction=False)
    ),
    "agent retries": Scenario(_fails_once_for_good, person),
    "response_model": Scenario(
        lambda r: structured({"name": "Ada", "age": 36}),
        person,
        lambda agent: run_task(agent, response_model=Person),
    ),
    "output_pydantic": Scenario(
        lambda r: text('{"name": "Ada", "age": 36}'),
        person,
        lambda agent: run_task(agent, output_pydantic=Person),
    ),
    "output_json": Scenario(
        lambda r: text('{"name": "Ada", "age": 36}'),
        person,
        lambda agent: run_task(agent, output_json=Person),
    ),
    "kickoff": Scenario(
        calls_then("Hello.", [A]),
        lambda llm: person(llm, tools=[look_up]),
        lambda agent: agent.kickoff("Say hello."),
    ),
    "kickoff, response_format": Scenario(
        lambda r: structured({"name": "Ada", "age": 36}),
        person,
        lambda agent: agent.kickoff("Who?", response_format=Person),
    ),
    "kickoff, history": Scenario(
        lambda r: text("As I said."),
        person,
        lambda agent: agent.kickoff(
            [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
                {"role": "user", "content": "Again?"},
            ]
        ),
    ),
    "akickoff": Scenario(
        calls_then("Hello.", [A, B]),
        lambda llm: person(llm, tools=[look_up]),
        lambda agent: asyncio.run(agent.akickoff("Say hello.")),
    ),
    "aexecute_task": Scenario(
        calls_then("Hello.", [A], [B]),
        lambda llm: person(llm, tools=[look_up]),
        lambda agent: asyncio.run(
            agent.aexecute_task(Task(description="Say hello.", expected_output="A text."))
        ),
    ),
    "llm guardrail": Scenario(
        _guarded,
        lambda llm: person(llm, guardrail="The answer is long enough."),
        lambda agent: agent.kickoff("Answer."),
    ),
    "function guardrail": Scenario(
        lambda r: text("An answer."),
        lambda llm: person(llm, guardrail=_shouts),
        lambda agent: agent.kickoff("Answer."),
    ),
    "guardrail refuses": Scenario(
        lambda r: text("An answer."),
        lambda llm: person(llm, guardrail=_refuses, guardrail_max_retries=1),
        lambda agent: agent.kickoff("Answer."),
    ),
    "LLM fails for good": Scenario(
        lambda r: error(401, message="Incorrect API key provided"),
        lambda llm: person(llm, max_retry_limit=1),
    ),
    "planning, parallel todos": Scenario(
        _planning,
        lambda llm: person(
            llm,
            tools=[look_up],
            planning_config=PlanningConfig(reasoning_effort="low", max_attempts=1),
        ),
    ),
    "planning, observed, timed": Scenario(
        _planning,
        lambda llm: person(
            llm,
            tools=[look_up],
            planning_config=PlanningConfig(
                reasoning_effort="medium", max_attempts=1, step_timeout=60
            ),
        ),
    ),
    "memory": Scenario(_memory, _with_memory, shared_state=True),
    "memory, kickoff": Scenario(
        _memory,
        _with_memory,
        lambda agent: agent.kickoff("What do you remember?"),
        shared_state=True,
    ),
    "knowledge": Scenario(lambda r: text("It is blue."), _with_knowledge),
    "knowledge, async": Scenario(
        lambda r: text("It is blue."),
        _with_knowledge,
        lambda agent: asyncio.run(
            agent.aexecute_task(Task(description="Colour?", expected_output="A text."))
        ),
    ),
    "streaming": Scenario(
        calls_then("Streamed.", [A]),
        lambda llm: person(llm, tools=[look_up]),
        llm={"stream": True},
    ),
    "inject_date": Scenario(lambda r: text("Today."), lambda llm: person(llm, inject_date=True)),
    "max_rpm": Scenario(
        calls_then("Known.", [A]), lambda llm: person(llm, tools=[look_up], max_rpm=100)
    ),
    "max_execution_time": Scenario(
        calls_then("Known.", [A]),
        lambda llm: person(llm, tools=[look_up], max_execution_time=300),
    ),
    "function_calling_llm": Scenario(
        react_then("Known.", A),
        lambda llm: person(llm, tools=[look_up], function_calling_llm=llm),
        react=True,
    ),
}
