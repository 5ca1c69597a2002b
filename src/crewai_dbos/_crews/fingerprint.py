"""What a crew is made of, stored with its run, and what of it has changed since.

Another text or model changes what is asked from now on. Another structure would put recorded work
in the wrong place, so the run stops.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
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
        "tasks": [_of_task(number, crew.tasks) for number in range(1, len(crew.tasks) + 1)],
    }


def number_of(task: Task, tasks: Sequence[Task], before: int) -> int:
    """Which of `tasks` one is, counted from 1; 0 if it is none of them.

    Args:
        before: Of one that is there several times it is the last one before this number.
    """
    numbers = [number for number, each in enumerate(tasks, 1) if each is task]
    return max((each for each in numbers if each < before), default=max(numbers, default=0))


def _of_task(number: int, tasks: Sequence[Task]) -> Fingerprint:
    task = tasks[number - 1]
    context = task.context if isinstance(task.context, list) else []
    return {
        "name": task.name,
        "agent": _role(task.agent) if task.agent is not None else None,
        "async": bool(task.async_execution),
        "conditional": isinstance(task, ConditionalTask),
        "context": [number_of(each, tasks, number) for each in context],
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


def changes(recorded: Fingerprint, now: Fingerprint) -> Changes:
    """What has changed since `recorded`."""
    return Changes(tuple(_structure(recorded, now)), tuple(_texts(recorded, now)))


def unfit(
    recorded: Fingerprint, now: Fingerprint, begun: Collection[int]
) -> Iterator[tuple[str, set[int] | None]]:
    """What has changed of work that something is recorded of: that would be in the wrong place.

    A tool more does not count: what is recorded was done without it.

    Args:
        begun: The numbers of the tasks that something is recorded of.

    Yields:
        What it is, and which of these tasks it is about; None if it is about the whole crew.
    """
    for told in _as_a_whole(recorded, now):
        yield told, None
    before, after = recorded["tasks"], now["tasks"]
    for number in sorted(begun):
        for told in _of_begun(number, before, after):
            yield told, {number}
    roles = {agent["role"]: agent for agent in now["agents"]}
    for agent in recorded["agents"]:
        tools = roles.get(agent["role"], agent)["tools"]
        working = {n for n in begun if _agent_of(before, n) == agent["role"]}
        if working and any(tool not in tools for tool in agent["tools"]):
            yield _of_tools(agent, tools), working


def conditional_tasks(of: Fingerprint) -> list[int]:
    """The numbers of the tasks that have a condition."""
    return [number for number, task in enumerate(of["tasks"], 1) if task["conditional"]]


def may_end_otherwise(recorded: Fingerprint, now: Fingerprint, begun: Collection[int]) -> bool:
    """Whether the output may be another: a task is new, or has changed before it began.

    Args:
        begun: The numbers of the tasks that something is recorded of.
    """
    before = recorded["tasks"]
    return any(
        number not in begun and any(_of_one_task(number, _nth(before, number), task, before))
        for number, task in enumerate(now["tasks"], 1)
    )


def _of_begun(number: int, before: list[Fingerprint], after: list[Fingerprint]) -> Iterator[str]:
    old, new = _nth(before, number), _nth(after, number)
    yield from _of_one_task(number, old, new, before)
    if old is None or new is None:
        return
    if any(tool not in new["tools"] for tool in old["tools"]):
        yield _aspect("tools", number, old, new)
    # Without a name another text may be another task, and this one be elsewhere now, or gone.
    is_another = old["name"] is None and old["text"] != new["text"]
    if is_another and (len(before) != len(after) or _is_elsewhere(old["text"], before, after)):
        yield f"{_called(number, old)} has another text, and no name says that it is the same"


def _is_elsewhere(text: str, before: list[Fingerprint], after: list[Fingerprint]) -> bool:
    """Whether a task has this text now where none had it."""
    places = (n for n, task in enumerate(after, 1) if task["text"] == text)
    return any((_nth(before, n) or {}).get("text") != text for n in places)


def _structure(recorded: Fingerprint, now: Fingerprint) -> Iterator[str]:
    yield from _as_a_whole(recorded, now)
    before, after = recorded["tasks"], now["tasks"]
    for number in range(1, max(len(before), len(after)) + 1):
        old, new = _nth(before, number), _nth(after, number)
        yield from _of_one_task(number, old, new, before)
        if old is not None and new is not None and old["tools"] != new["tools"]:
            yield _aspect("tools", number, old, new)
    roles = {agent["role"]: agent for agent in now["agents"]}
    members = {agent["role"]: agent for agent in recorded["agents"]}
    for role in [role for role in members if role not in roles]:
        yield f"the agent {role!r} is gone"
    for role in [role for role in roles if role not in members]:
        yield f"the agent {role!r} is new"
    for role, agent in members.items():
        if role in roles and roles[role]["tools"] != agent["tools"]:
            yield _of_tools(agent, roles[role]["tools"])


def _as_a_whole(recorded: Fingerprint, now: Fingerprint) -> Iterator[str]:
    for aspect in ("process", "manager", "planning", "memory"):
        if recorded.get(aspect) != now[aspect]:
            yield f"{aspect} was {recorded.get(aspect)!r} and is {now[aspect]!r}"


def _of_one_task(
    number: int, old: Fingerprint | None, new: Fingerprint | None, before: list[Fingerprint]
) -> Iterator[str]:
    """What has changed of a task, but for its tools."""
    what = _called(number, old or new)
    if old is None or new is None:
        yield f"{what} is gone" if new is None else f"{what} is new"
        return
    if old["name"] != new["name"]:
        yield f"{what} is now {new['name']!r}"
        return
    others = [n for n, task in enumerate(before, 1) if task["text"] == new["text"]]
    if old["name"] is None and old["text"] != new["text"] and others:
        yield f"{what} has the text that task {others[0]} had"
        return
    for aspect in ("agent", "async", "conditional", "context", "guardrails", "output"):
        if old[aspect] != new[aspect]:
            yield _aspect(aspect, number, old, new)


def _aspect(aspect: str, number: int, old: Fingerprint, new: Fingerprint) -> str:
    return f"{aspect} of {_called(number, old)} was {old[aspect]!r} and is {new[aspect]!r}"


def _of_tools(agent: Fingerprint, now: list[str]) -> str:
    return (
        f"the tools of the agent {agent['role']!r} were {_listed(agent['tools'])} and are "
        f"{_listed(now)}"
    )


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


def _agent_of(tasks: list[Fingerprint], number: int) -> Any:
    task = _nth(tasks, number)
    return None if task is None else task["agent"]


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _role(agent: Any) -> str:
    return " ".join(str(original_text(agent, "role")).split())


def _model(agent: Any) -> str:
    llm = getattr(agent, "llm", None)
    if is_llm(llm):
        return str(llm.model)
    return llm if isinstance(llm, str) else type(llm).__qualname__
