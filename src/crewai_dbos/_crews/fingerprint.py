"""What a crew is made of, stored with its run, and what of it has changed since.

Another text or model changes what is asked from now on. Another structure would put recorded work
in the wrong place, so the run stops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crewai import Crew, Task
from crewai.tasks.conditional_task import ConditionalTask

from crewai_dbos._crewai_seam.agent import original_text
from crewai_dbos._crewai_seam.crew import guardrails_of, memory_of
from crewai_dbos._crewai_seam.llm import is_llm
from crewai_dbos._stored.digest import short
from crewai_dbos._stored.work_order import TASK_MODELS

Fingerprint = dict[str, Any]


def of_crew(crew: Crew) -> Fingerprint:
    """What `crew` is made of, as plain JSON.

    Args:
        crew: The user's, before inputs are filled in.
    """
    manager = crew.manager_agent
    return {
        "process": crew.process.value,
        "manager": _role(manager) if manager is not None else crew.manager_llm is not None,
        "planning": bool(crew.planning),
        "memory": memory_of(crew) is not None,
        "agents": [
            {
                "role": _role(agent),
                "tools": [tool.name for tool in agent.tools or []],
                "text": short([original_text(agent, "goal"), original_text(agent, "backstory")]),
                "model": _model(agent),
            }
            for agent in crew.agents
        ],
        "tasks": [_of_task(task, crew.tasks) for task in crew.tasks],
    }


def _of_task(task: Task, tasks: list[Task]) -> Fingerprint:
    places = {id(each): number for number, each in enumerate(tasks, 1)}
    context = task.context if isinstance(task.context, list) else []
    return {
        "name": task.name,
        "agent": _role(task.agent) if task.agent is not None else None,
        "async": bool(task.async_execution),
        "conditional": isinstance(task, ConditionalTask),
        "context": [places.get(id(each), 0) for each in context],
        "tools": [tool.name for tool in task.tools or []],
        "guardrails": len(guardrails_of(task)),
        "output": [
            f"{name}:{m.__name__}" for name in TASK_MODELS if (m := getattr(task, name, None))
        ],
        "text": short([original_text(task, "description"), original_text(task, "expected_output")]),
        # Given no context on purpose; what was not said sees every output before it.
        **({} if task.context else {"alone": True}),
    }


@dataclass(frozen=True)
class Changes:
    """What differs between two fingerprints.

    Attributes:
        structure: Sentences on what would put recorded work in the wrong place.
        texts: What are asked otherwise from now on.
    """

    structure: tuple[str, ...]
    texts: tuple[str, ...]


def changes(recorded: Fingerprint, now: Fingerprint, begun: set[int] | None = None) -> Changes:
    """What has changed since `recorded`.

    Args:
        begun: The numbers of the tasks that something is recorded of, if nothing else matters.
    """
    return Changes(
        tuple(_structure(recorded, now, begun)),
        tuple(_texts(recorded, now)),
    )


def _structure(recorded: Fingerprint, now: Fingerprint, begun: set[int] | None) -> Iterator[str]:
    for aspect in ("process", "manager", "planning", "memory"):
        if recorded.get(aspect) != now[aspect]:
            yield f"{aspect} was {recorded.get(aspect)!r} and is {now[aspect]!r}"
    before, after = recorded["tasks"], now["tasks"]
    relevant = range(1, max(len(before), len(after)) + 1)
    for number in relevant if begun is None else sorted(begun):
        old, new = _nth(before, number), _nth(after, number)
        if old is None or new is None:
            what = _called(number, old or new)
            yield f"{what} is gone" if new is None else f"{what} is new"
            continue
        yield from _of_one_task(number, old, new, before)
    roles = {agent["role"]: agent for agent in now["agents"]}
    members = {agent["role"]: agent for agent in recorded["agents"]}
    if begun is None:
        for role in [role for role in members if role not in roles]:
            yield f"the agent {role!r} is gone"
        for role in [role for role in roles if role not in members]:
            yield f"the agent {role!r} is new"
    working = {task["agent"] for task in before} if begun is None else _at(before, begun, "agent")
    for role, agent in members.items():
        changed = role in roles and roles[role]["tools"] != agent["tools"]
        if changed and (begun is None or role in working):
            yield (
                f"the tools of the agent {role!r} were {_listed(agent['tools'])} and are "
                f"{_listed(roles[role]['tools'])}"
            )


def _of_one_task(
    number: int, old: Fingerprint, new: Fingerprint, before: list[Fingerprint]
) -> Iterator[str]:
    what = _called(number, old)
    if old["name"] != new["name"]:
        yield f"{what} is now {new['name']!r}"
        return
    others = [n for n, task in enumerate(before, 1) if task["text"] == new["text"]]
    if old["name"] is None and old["text"] != new["text"] and others:
        yield f"{what} has the text that task {others[0]} had"
        return
    for aspect in ("agent", "async", "conditional", "context", "tools", "guardrails", "output"):
        if old[aspect] != new[aspect]:
            yield f"{aspect} of {what} was {old[aspect]!r} and is {new[aspect]!r}"


def _texts(recorded: Fingerprint, now: Fingerprint) -> Iterator[str]:
    for number, (old, new) in enumerate(zip(recorded["tasks"], now["tasks"], strict=False), 1):
        if old["text"] != new["text"]:
            yield f"the text of {_called(number, new)}"
    members = {agent["role"]: agent for agent in recorded["agents"]}
    for agent in now["agents"]:
        old_agent = members.get(agent["role"], agent)
        if old_agent["text"] != agent["text"]:
            yield f"goal or backstory of {agent['role']!r}"
        if old_agent["model"] != agent["model"]:
            yield f"the model of {agent['role']!r} ({old_agent['model']}, now {agent['model']})"


def _called(number: int, task: Mapping[str, Any] | None) -> str:
    name = (task or {}).get("name")
    return f"task {number} ({name!r})" if name else f"task {number}"


def _nth(tasks: list[Fingerprint], number: int) -> Fingerprint | None:
    return tasks[number - 1] if number <= len(tasks) else None


def _at(tasks: list[Fingerprint], numbers: set[int], aspect: str) -> set[Any]:
    return {tasks[number - 1][aspect] for number in numbers if number <= len(tasks)}


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _role(agent: Any) -> str:
    return " ".join(str(original_text(agent, "role")).split())


def _model(agent: Any) -> str:
    llm = getattr(agent, "llm", None)
    if is_llm(llm):
        return str(llm.model)
    return llm if isinstance(llm, str) else type(llm).__qualname__
