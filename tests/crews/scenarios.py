"""What a crew can do, each as a way to build it and a script of the model.

A scenario is run by crewAI alone, by a DBOSCrew, by forks of that run, and by processes that are
killed. Answers depend on what was asked only, so that an answer in the wrong place shows.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import pickle
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crewai import LLM, Agent, Crew, Process, Task
from crewai.agent.planning_config import PlanningConfig
from crewai.knowledge.knowledge import Knowledge
from crewai.mcp import MCPServerStdio
from crewai.memory.unified_memory import Memory
from crewai.tasks.conditional_task import ConditionalTask
from crewai.tools import tool
from crewai_files import ImageFile, TextFile
from dbos import DBOS
from pydantic import BaseModel

from crewai_dbos import DBOSAgent
from crewai_dbos.testing import (
    Reply,
    Request,
    ToolCall,
    report_effect,
    structured,
    text,
    tool_calls,
)
from crewai_dbos.testing.effects import EFFECTS
from support.schemas import any_value_of

Script = Callable[[Request], Reply]


@dataclass
class Scenario:
    """One thing a crew does.

    Attributes:
        build: Makes the crew.
        script: The model's replies.
        inputs: Of the kickoff.
        shared_state: Whether it leaves something behind that another run of it would see.
        racing: Whether what is asked and done depends on who is faster, or on the clock.
        better: Whether crewAI alone fails at it, or counts its tokens too early.
        plain: Makes the crew that crewAI alone runs, if that is another.
        options: Of `DBOSCrew`.
    """

    build: Callable[[], Crew]
    script: Script
    inputs: dict[str, Any] = field(default_factory=lambda: {"topic": "otters"})
    shared_state: bool = False
    racing: bool = False
    better: bool = False
    plain: Callable[[], Crew] | None = None
    options: dict[str, Any] = field(default_factory=dict)


# People ------------------------------------------------------------------------------


def model(**options: Any) -> LLM:
    """Of the server that the environment names."""
    return LLM(model="openai/gpt-4o-mini", **options)


def agent(role: str, **options: Any) -> Agent:
    options.setdefault("llm", model())
    return Agent(role=role, goal=f"{role} well", backstory="Diligent.", **options)


def folder() -> Path:
    """Where a run leaves things; no other run has the same."""
    return Path(os.environ[EFFECTS]).parent


def task(what: str, who: Agent | None, **options: Any) -> Task:
    return Task(description=what, expected_output="A text.", agent=who, **options)


# Tools -------------------------------------------------------------------------------


@tool
def search(query: str) -> str:
    """Search for something."""
    report_effect("search", query=query)
    return f"found {query}"


@tool
@DBOS.step()
def archive(text: str) -> str:
    """Put a text away."""
    report_effect("archive", text=text)
    return f"archived {text}"


# Scripts -----------------------------------------------------------------------------


def role(request: Request) -> str:
    """Whose request it is."""
    found = re.search(r"You are ([^.\n]+)\.", request.system_text)
    return found[1].strip() if found else ""


def asked(request: Request) -> str:
    """What the task is, in a word or two."""
    text = next((m["content"] for m in request.messages if m["role"] == "user"), "")
    found = re.search(r"Current Task: (.+)", str(text))
    return (found[1] if found else str(text).strip().splitlines()[0]).strip()


def answer(request: Request) -> Reply:
    """An answer that says whose it is, to what, and what was found out for it."""
    found = [result for _, result in request.tool_results]
    context = re.search(r"This is the context you're working with:\n(.+)", str(asked_with(request)))
    parts = [f"{role(request)} on {asked(request)}"]
    parts += [f"given [{context[1]}]"] if context else []
    parts += [f"with {'; '.join(found)}"] if found else []
    return text(" ".join(parts))


def asked_with(request: Request) -> str:
    return "\n".join(str(m.get("content")) for m in request.messages if m["role"] == "user")


def turns(*replies: Callable[[Request], Reply] | Reply) -> Script:
    """In each conversation one reply after the other, then an answer."""

    def script(request: Request) -> Reply:
        if request.assistant_turns >= len(replies) or not request.offered_tools:
            return answer(request)
        reply = replies[request.assistant_turns]
        return reply(request) if callable(reply) else reply

    return script


def searching(*queries: str) -> Reply:
    return tool_calls(*(ToolCall("search", {"query": query}) for query in queries))


def search_for_it(request: Request) -> Reply:
    return searching(asked(request))


def delegate(task: str, coworker: str) -> ToolCall:
    arguments = {"task": task, "context": "It matters.", "coworker": coworker}
    return ToolCall("delegate_work_to_coworker", arguments)


def ask(question: str, coworker: str) -> ToolCall:
    arguments = {"question": question, "context": "It matters.", "coworker": coworker}
    return ToolCall("ask_question_to_coworker", arguments)


def by_role(**scripts: Script) -> Script:
    """Each role follows its own script; the others answer."""

    def script(request: Request) -> Reply:
        return scripts.get(role(request).replace(" ", "_"), answer)(request)

    return script


# Crews -------------------------------------------------------------------------------


def sequential() -> Crew:
    researcher, writer = agent("{topic} Researcher", tools=[search]), agent("Writer")
    return Crew(
        agents=[researcher, writer],
        tasks=[
            task("Research {topic}", researcher, name="research"),
            task("Write it up", writer, tools=[archive]),
        ],
    )


def hierarchical() -> Crew:
    return Crew(
        agents=[agent("Researcher", tools=[search]), agent("Writer")],
        tasks=[task("Report on {topic}", None), task("Sum up", None)],
        process=Process.hierarchical,
        manager_llm=model(),
    )


def managed() -> Crew:
    return Crew(
        agents=[agent("Researcher", tools=[search]), agent("Writer")],
        tasks=[task("Report on {topic}", None)],
        process=Process.hierarchical,
        manager_agent=agent("Boss", allow_delegation=True),
    )


def _manages(request: Request) -> Reply:
    if request.assistant_turns == 0:
        return tool_calls(delegate("Find out", "Researcher"))
    if request.assistant_turns == 1:
        return tool_calls(ask("How to say it?", "Writer"))
    return answer(request)


def nested() -> Crew:
    lead = agent("Lead", allow_delegation=True)
    deputy = agent("Deputy", allow_delegation=True)
    return Crew(
        agents=[lead, deputy, agent("Clerk", tools=[search])], tasks=[task("Do {topic}", lead)]
    )


def parallel_delegation() -> Crew:
    lead = agent("Lead", allow_delegation=True)
    return Crew(
        agents=[lead, agent("Ann", tools=[search]), agent("Bob", tools=[search])],
        tasks=[task("Do {topic}", lead)],
    )


def at_once(*, one_agent: bool = False) -> Crew:
    people = [agent(name, tools=[search]) for name in ("Ann", "Bob", "Eve")]
    people = [people[0]] * 3 if one_agent else people
    parts = [
        task(f"Part {part} of {{topic}}", who, async_execution=True)
        for part, who in zip("abc", people, strict=True)
    ]
    joined = task("Join the parts", people[0], context=parts)
    return Crew(agents=list(dict.fromkeys(people)), tasks=[*parts, joined])


def _mentions_otters(output: Any) -> bool:
    report_effect("condition")
    return "otters" in output.raw


def conditional() -> Crew:
    clerk = agent("Clerk")
    return Crew(
        agents=[clerk],
        tasks=[
            task("First {topic}", clerk),
            ConditionalTask(
                condition=_mentions_otters,
                description="Only with otters",
                expected_output="A text.",
                agent=clerk,
            ),
            ConditionalTask(
                condition=lambda output: "badgers" in output.raw,
                description="Only with badgers",
                expected_output="A text.",
                agent=clerk,
            ),
            task("Last", clerk),
        ],
    )


def contexts() -> Crew:
    clerk = agent("Clerk")
    first, second = task("First {topic}", clerk), task("Second", clerk, context=None)
    third = task("Third", clerk, context=[first])
    return Crew(agents=[clerk], tasks=[first, second, third])


def _wants_a_dot(output: Any):  # type: ignore[no-untyped-def]
    report_effect("guardrail", raw=output.raw)
    return (True, output.raw) if output.raw.endswith(".") else (False, "End with a dot.")


def _shouts(output: Any):  # type: ignore[no-untyped-def]
    report_effect("shout", raw=output.raw)
    return True, output.raw.upper()


def guarded() -> Crew:
    clerk = agent("Clerk")
    return Crew(
        agents=[clerk],
        tasks=[
            task("One {topic}", clerk, guardrail=_wants_a_dot),
            task("Two", clerk, guardrail="It must be polite"),
            task("Three", clerk, guardrails=[_shouts, "It must be short", _wants_a_dot]),
        ],
    )


def guarded_by_a_manager() -> Crew:
    return Crew(
        agents=[agent("Clerk")],
        tasks=[
            task("Report on {topic}", None, guardrail=_wants_a_dot),
            task("Three", None, guardrails=[_shouts, _wants_a_dot]),
        ],
        process=Process.hierarchical,
        manager_llm=model(),
    )


def guarded_at_once() -> Crew:
    """One agent at several tasks, whose guardrails all are asked at some time."""
    clerk = agent("Clerk")
    parts = [
        task(f"Three {part}", clerk, async_execution=True, guardrails=[_shouts, "It must be short"])
        for part in "abc"
    ]
    return Crew(agents=[clerk], tasks=[*parts, task("Join", clerk, context=parts)])


def _guarded(request: Request) -> Reply:
    if request.schema_name == "LLMGuardrailResult":
        polite = "PLEASE" in request.last_user_text or "please" in request.last_user_text
        short = "short" in request.last_user_text
        fine = polite or short
        return structured({"valid": fine, "feedback": None if fine else "Say please."})
    tried = asked_with(request)
    reply = f"{asked(request)}"
    reply += " please" if "Say please" in tried else ""
    reply += "." if "End with a dot" in tried or "Three" in tried else ""
    return text(reply)


class Report(BaseModel):
    title: str
    pages: int


def structured_outputs() -> Crew:
    clerk = agent("Clerk")
    return Crew(
        agents=[clerk],
        tasks=[
            task("Pydantic of {topic}", clerk, output_pydantic=Report),
            task("Json", clerk, output_json=Report),
            task("Model", clerk, response_model=Report),
        ],
    )


def _structured(request: Request) -> Reply:
    if request.schema_name == "Report" or "Report" in request.offered_tools:
        value = {"title": asked(request)[:20], "pages": 3}
        if request.offered_tools:
            return tool_calls(ToolCall("Report", value))
        return structured(value)
    return text(f"{asked(request)}: three pages.")


def output_file() -> Crew:
    clerk = agent("Clerk")
    path = f"{folder()}/out/{{topic}}.md"
    return Crew(agents=[clerk], tasks=[task("Write {topic}", clerk, output_file=path)])


def planned() -> Crew:
    clerk = agent("Clerk")
    return Crew(
        agents=[clerk],
        tasks=[task("One {topic}", clerk), task("Two", clerk)],
        planning=True,
        planning_llm=model(),
    )


def _planned(request: Request) -> Reply:
    if request.schema_name == "PlannerTaskPydanticOutput":
        plans = [{"task_number": n, "task": "it", "plan": f" Plan {n}: do it."} for n in (1, 2)]
        return structured({"list_of_plans_per_task": plans})
    return answer(request)


def reasoning() -> Crew:
    clerk = agent(
        "Clerk", tools=[search], planning_config=PlanningConfig(llm=model(), max_attempts=1)
    )
    return Crew(agents=[clerk], tasks=[task("Look up {topic}", clerk), task("Again", clerk)])


def _reasoning(request: Request) -> Reply:
    names = request.offered_tools
    if "create_reasoning_plan" in names:
        steps = [
            {
                "step_number": n,
                "description": f"Look up {k}",
                "tool_to_use": "search",
                "depends_on": [],
            }
            for n, k in ((1, "a"), (2, "b"))
        ]
        plan = {"plan": "Look up both", "steps": steps, "ready": True}
        return tool_calls(ToolCall("create_reasoning_plan", plan))
    if names and not request.tool_results:
        return searching("b" if "Look up b" in str(request.messages) else "a")
    if request.schema_name:
        return structured(any_value_of(request))
    return text(f"Found it after {len(request.tool_results)} look-ups.")


def embed(texts: list[str]) -> list[list[float]]:
    """A local embedder: counts of a few letters."""
    report_effect("embed", texts=texts)
    return [[float(t.count(c)) + 0.1 for c in "aeiostr "] for t in texts]


def remembering() -> Crew:
    llm = model()
    memory = Memory(llm=llm, embedder=embed, storage=f"{folder()}/memory")
    clerk, writer = agent("Clerk", llm=llm), agent("Writer", llm=llm)
    return Crew(
        agents=[clerk, writer],
        tasks=[task("Learn {topic}", clerk), task("Use it", writer)],
        memory=memory,
    )


def _remembering(request: Request) -> Reply:
    if request.schema_name == "ExtractedMemories":
        return structured({"memories": [f"It was about {len(request.last_user_text)} letters."]})
    if request.schema_name:
        return structured(any_value_of(request))
    return text(f"{role(request)} remembers.")


def knowing() -> Crew:
    from crewai.knowledge.storage.base_knowledge_storage import BaseKnowledgeStorage

    class Shelved(BaseKnowledgeStorage):
        def search(self, query: list[str], *args: Any, **kwargs: Any) -> list[Any]:
            report_effect("query", query=query)
            return [{"id": "1", "content": "otters swim", "metadata": {}, "score": 0.9}]

        async def asearch(self, query: list[str], *args: Any, **kwargs: Any) -> list[Any]:
            return self.search(query)

        def save(self, documents: list[str]) -> None: ...

        async def asave(self, documents: list[str]) -> None: ...

        def reset(self) -> None: ...

        async def areset(self) -> None: ...

    clerk = agent("Clerk", knowledge=Knowledge("c", sources=[], storage=Shelved()))
    crew = Crew(agents=[clerk], tasks=[task("Know {topic}", clerk)])
    crew.knowledge = Knowledge("crew", sources=[], storage=Shelved())
    return crew


def _before(inputs: dict[str, Any]) -> dict[str, Any]:
    report_effect("before_kickoff")
    return {**inputs, "topic": f"{inputs['topic']} and badgers"}


def _after(output: Any) -> Any:
    report_effect("after_kickoff")
    output.raw = f"{output.raw} (done)"
    return output


def _on_task(output: Any) -> None:
    report_effect("task_callback", raw=output.raw)


async def _on_own_task(output: Any) -> None:
    await asyncio.sleep(0)
    report_effect("own_callback", raw=output.raw)
    output.raw = f"{output.raw} (seen)"


def _on_step(step: Any) -> None:
    report_effect("step_callback", step=type(step).__name__, text=str(step.text)[:80])


def called_back() -> Crew:
    clerk = agent("Clerk", tools=[search])
    return Crew(
        agents=[clerk],
        tasks=[task("One {topic}", clerk), task("Two", clerk, callback=_on_own_task)],
        task_callback=_on_task,
        step_callback=_on_step,
        before_kickoff_callbacks=[_before],
        after_kickoff_callbacks=[_after],
    )


def cached(*, side_by_side: bool = False) -> Crew:
    people = [agent(name, tools=[search]) for name in ("Ann", "Bob")]
    tasks = [
        task(f"Same {{topic}} {n}", who, async_execution=side_by_side)
        for n, who in enumerate(people)
    ]
    return Crew(agents=people, tasks=[*tasks, task("Join", people[0])], cache=True, max_rpm=500)


def of_durable_agents() -> Crew:
    crew = sequential()
    crew.agents = [_durable(each) for each in crew.agents]
    for each, who in zip(crew.tasks, crew.agents, strict=True):
        each.agent = who
    return crew


_count = itertools.count()


def _durable(plain: Agent) -> Any:
    return DBOSAgent(agent_name=f"{plain.role} {next(_count)}", orig_agent=plain)


@tool
@DBOS.workflow(name="crews.publish")
def publish(text: str) -> str:
    """Publish a text."""
    return press(text)


@DBOS.step()
def press(text: str) -> str:
    report_effect("press", text=text)
    return f"pressed {text}"


def publishing() -> Crew:
    clerk = agent("Clerk", tools=[publish])
    return Crew(agents=[clerk], tasks=[task("Publish {topic}", clerk)])


class Signed(Task):
    """A task class of the user's, with a method of crewAI's overridden."""

    def execute_sync(self, *args: Any, **kwargs: Any) -> Any:
        output = super().execute_sync(*args, **kwargs)
        output.raw += " (signed)"
        return output


def of_own_classes() -> Crew:
    class Clerk(Agent):
        def execute_task(self, *args: Any, **kwargs: Any) -> Any:
            return f"<{super().execute_task(*args, **kwargs)}>"

    clerk = Clerk(role="Clerk", goal="Work", backstory="Diligent.", llm=model(), tools=[search])
    tasks = [
        Signed(description="One {topic}", expected_output="A text.", agent=clerk),
        Signed(description="Two", expected_output="A text.", agent=clerk, async_execution=True),
    ]
    return Crew(agents=[clerk], tasks=tasks)


def one_llm() -> Crew:
    llm = model()
    return Crew(
        agents=[agent("Researcher", llm=llm), agent("Writer", llm=llm)],
        tasks=[task("Report on {topic}", None)],
        process=Process.hierarchical,
        manager_llm=llm,
    )


def trained() -> Crew:
    path = folder() / "trained.pkl"
    made = folder() / f"trained.{threading.get_ident()}"
    made.write_bytes(pickle.dumps({"Clerk": {"suggestions": ["Be brief."]}}))
    made.replace(path)  # another run of it may be reading the file
    clerk = agent("Clerk")
    return Crew(agents=[clerk], tasks=[task("Do {topic}", clerk)], trained_agents_file=path)


def _trained(request: Request) -> Reply:
    return text("Brief." if "Be brief." in asked_with(request) else "At length.")


def with_mcp() -> Crew:
    program = str(Path(__file__).with_name("quick_mcp_server.py"))
    effects = str(Path(str(inspect.getsourcefile(report_effect))).parent)
    server = MCPServerStdio(
        command=sys.executable,
        args=["-I", "-S", program, effects],
        env={EFFECTS: os.environ[EFFECTS]},
    )
    clerk = agent("Clerk", mcps=[server])
    return Crew(agents=[clerk], tasks=[task("Ask for {topic}", clerk)])


def _mcp(request: Request) -> Reply:
    (name,) = request.offered_tools or [""]
    if request.assistant_turns == 0:
        return tool_calls(ToolCall(name, {"item": "otters"}))
    return answer(request)


FILES = Path(__file__).with_name("files")


def with_files() -> Crew:
    """A picture that is sent to the model, a table that the model reads with crewAI's tool."""
    clerk = agent("Clerk")
    table = (FILES / "counts.csv").read_bytes()
    files = {
        "picture": ImageFile(source=FILES / "otter.png"),
        "table": TextFile(source=table),
    }
    return Crew(
        agents=[clerk],
        tasks=[task("Look at {topic}", clerk, input_files=files), task("Sum up", clerk)],
    )


def _looking(request: Request) -> Reply:
    if request.offered_tools and request.assistant_turns == 0:
        return tool_calls(ToolCall("read_file", {"file_name": "table"}))
    pictures = [
        part
        for message in request.messages
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]
    [_, read] = request.tool_results[0] if request.tool_results else ("", "nothing")
    return text(f"{asked(request)}: {len(pictures)} picture, {len(read)} letters")


def multimodal() -> Crew:
    # A model that takes no pictures itself.
    clerk = agent("Clerk", multimodal=True, llm=LLM(model="openai/gpt-3.5-turbo"))
    return Crew(agents=[clerk], tasks=[task("Look at {topic}", clerk)])


def _adding(request: Request) -> Reply:
    name = next((name for name in request.offered_tools if "image" in name), "")
    if request.assistant_turns == 0:
        return tool_calls(ToolCall(name, {"image_url": "https://example.com/otter.png"}))
    return text(f"Seen: {'otter.png' in str(request.messages)}")


SCENARIOS: dict[str, Scenario] = {
    "sequential": Scenario(
        sequential,
        by_role(
            otters_Researcher=turns(searching("otters", "rivers"), searching("fur")),
            Writer=turns(tool_calls(ToolCall("archive", {"text": "a draft"}))),
        ),
    ),
    "hierarchical": Scenario(
        hierarchical,
        by_role(Crew_Manager=_manages, Researcher=turns(search_for_it)),
    ),
    "manager agent": Scenario(managed, by_role(Boss=_manages, Researcher=turns(search_for_it))),
    "nested delegation": Scenario(
        nested,
        by_role(
            Lead=turns(tool_calls(delegate("Arrange it", "Deputy"))),
            Clerk=turns(search_for_it),
        ),
    ),
    "parallel delegation": Scenario(
        parallel_delegation,
        by_role(
            Lead=turns(
                tool_calls(delegate("North", "Ann"), delegate("South", "Bob")),
                tool_calls(delegate("East", "Ann"), delegate("West", "Ann")),
            ),
            Ann=turns(search_for_it),
            Bob=turns(search_for_it),
        ),
        better=True,
    ),
    "at once": Scenario(at_once, turns(search_for_it)),
    "at once, one agent": Scenario(
        lambda: at_once(one_agent=True), turns(search_for_it), better=True
    ),
    "conditional": Scenario(conditional, answer),
    "contexts": Scenario(contexts, answer),
    "guarded": Scenario(guarded, _guarded),
    "guarded by a manager": Scenario(guarded_by_a_manager, _guarded),
    "guarded, at once": Scenario(guarded_at_once, _guarded, better=True),
    "structured outputs": Scenario(structured_outputs, _structured),
    "output file": Scenario(output_file, answer),
    "planned": Scenario(planned, _planned),
    "reasoning": Scenario(reasoning, _reasoning),
    "memory": Scenario(remembering, _remembering, shared_state=True, better=True),
    "knowledge": Scenario(knowing, answer),
    "callbacks": Scenario(called_back, turns(search_for_it)),
    "cache": Scenario(cached, turns(searching("same"))),
    "cache, side by side": Scenario(
        lambda: cached(side_by_side=True), turns(searching("same")), racing=True
    ),
    "durable agents": Scenario(
        of_durable_agents,
        by_role(otters_Researcher=turns(searching("otters"))),
        plain=sequential,
    ),
    "own classes": Scenario(of_own_classes, turns(search_for_it)),
    "one llm": Scenario(one_llm, by_role(Crew_Manager=_manages)),
    "trained": Scenario(trained, _trained),
    "mcp": Scenario(with_mcp, _mcp),
    "files": Scenario(with_files, _looking),
    "multimodal": Scenario(multimodal, _adding),
    "child workflow": Scenario(
        publishing, turns(tool_calls(ToolCall("publish", {"text": "otters"})))
    ),
}
