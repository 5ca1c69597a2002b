"""The parts of agents, tasks and crews that do something in a run, and what records each."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any
from urllib.parse import urlsplit

from crewai import Agent, Crew, Task
from crewai.hooks import InterceptionPoint, get_hooks
from crewai.tasks.conditional_task import ConditionalTask
from crewai.tasks.llm_guardrail import LLMGuardrail
from crewai.tools.base_tool import BaseTool
from crewai.utilities.string_utils import sanitize_tool_name

from crewai_dbos._crewai_seam.agent import memory_behind
from crewai_dbos._crewai_seam.crew import callback_behind, memory_of
from crewai_dbos._crewai_seam.events import event_handlers
from crewai_dbos._dbos_seam.decorated import decorated_kind
from crewai_dbos._journal.config import StepConfig, ToolStepConfig, for_tool
from crewai_dbos._objects.llm import DBOSLLM
from crewai_dbos._objects.tools import tool_function
from crewai_dbos._people.policy import People
from crewai_dbos._stored import names
from crewai_dbos._stored.budget import Budget
from crewai_dbos._stored.work_order import TASK_MODELS
from crewai_dbos.doctor._report import Item
from crewai_dbos.doctor._sources import Sources, followed

ANSWERED = "answered from the record"
AGAIN = "called again"
REPLAYED = "runs again on replay"
NOT_ASKED = "not asked again"
COUNTED = "counted from the record"

CREW = "crew"
PROCESS = "process"

GONE = "written again only if it is gone"

_OWN_RECORD = "DBOS's own record"
_CALLBACKS = {
    "step_callback": names.STEP_CALLBACK,
    "task_callback": names.CALLBACK,
    "before_kickoff_callbacks": names.BEFORE_KICKOFF,
    "after_kickoff_callbacks": names.AFTER_KICKOFF,
}


def of_agent(agent: Agent, config: ToolStepConfig, owner: str) -> Iterator[Item]:
    """The items of `agent`, as a `DBOSAgent` with this ``tool_step_config`` records them."""
    fields = agent.__dict__
    yield llm_item(agent.llm, names.LLM, owner)
    if fields.get("function_calling_llm") is not None:
        yield llm_item(fields["function_calling_llm"], names.FUNCTION_CALLING_LLM, owner)
    planning = agent.planning_config
    if planning is not None and planning.llm is not None:
        yield llm_item(planning.llm, names.PLANNING_LLM, owner)
    for tool in agent.tools or []:
        yield tool_item(tool, config, owner)
    for server in agent.mcps or []:
        yield from _mcp(server, config, owner)
    for app in agent.apps or []:
        yield Item("app", str(app), owner, None, "asked for its tools again", app)
        yield _tools_of(str(app), config, owner)
    if agent.memory:
        yield from memory_items(agent.memory, owner)
    yield from _knowledge(agent, owner)
    if agent.guardrail is not None:
        yield _guardrail(agent.guardrail, owner)
    if agent.step_callback is not None:
        seam = names.STEP_CALLBACK
        yield _code("callback", "step_callback", agent.step_callback, owner, seam)
    for callback in agent.callbacks or []:
        yield _code("callback", "callbacks", callback, owner)
    if agent.inject_date:
        yield Item("clock", "inject_date", owner, names.DATE, "the day on which the run began")
    if getattr(agent, "a2a", None) is not None:
        yield Item("a2a", "remote agents", owner, None, "asked again", agent.a2a)


def of_task(
    task: Task,
    owner: str,
    config: ToolStepConfig,
    *,
    durable: bool = False,
    asks: bool = False,
) -> Iterator[Item]:
    """The items of `task` itself; its agent's are not among them.

    Args:
        config: The ``tool_step_config`` that its tools come under.
        durable: Whether it is of a `DBOSCrew`.
        asks: Whether a run asks the person.
    """
    for tool in tools_of_task(task):
        yield tool_item(tool, config, owner)
    for field in TASK_MODELS:
        model = getattr(task, field, None)
        if model is not None:
            name = f"{_called(model)} ({field})"
            yield Item("model", name, owner, "its import path", "imported again", model)
    for guardrail in guardrails_of_task(task):
        yield _guardrail(guardrail, owner, durable=durable)
    if task.callback is not None:
        seam = names.CALLBACK if durable else None
        yield _code("callback", "callback", task.callback, owner, seam)
    if isinstance(task, ConditionalTask) and task.condition is not None:
        seam = names.CONDITION if durable else None
        yield _code("condition", "condition", task.condition, owner, seam)
    if task.output_file:
        seam, recovery = (names.OUTPUT_FILE, GONE) if durable else (None, "written again")
        yield Item("file", task.output_file, owner, seam, recovery)
    if task.human_input:
        seam, recovery = (names.REQUEST, NOT_ASKED) if asks else (None, "asked again")
        yield Item("person", "human_input", owner, seam, recovery)


def of_people(people: People | None, owner: str) -> Iterator[Item]:
    """The tool calls that a person has to approve."""
    if people is None or not people.approve_tools:
        return
    if callable(people.approve_tools):
        what = [f"approval where {_called(people.approve_tools)} says so"]
    else:
        what = [f"approval of {tool}" for tool in people.approve_tools]
    for name in what:
        yield Item("person", name, owner, names.APPROVAL, NOT_ASKED)


def of_budget(budget: Budget | None, owner: str) -> Iterator[Item]:
    """What a run may cost."""
    if budget is not None:
        then = "then it asks" if budget.on_limit == "ask" else "then it stops"
        yield Item("budget", f"{budget}, {then}", owner, names.BUDGET, COUNTED, budget)


def of_crew(crew: Crew, *, durable: bool = False) -> Iterator[Item]:
    """The items of `crew` itself; its agents' and tasks' are not among them.

    Args:
        durable: Whether it is a `DBOSCrew`.
    """
    owner = CREW
    # Some fields are deprecated, which asking for them as an attribute warns of.
    fields = vars(crew)
    if fields["function_calling_llm"] is not None:
        llm = fields["function_calling_llm"]
        yield llm_item(llm, names.FUNCTION_CALLING_LLM, owner, "function_calling_llm")
    if fields["manager_llm"] is not None:
        role = names.LLM if durable else None
        yield llm_item(fields["manager_llm"], role, owner, "manager_llm")
    if fields["planning"]:
        planner, role = fields["planning_llm"], names.PLANNER_LLM if durable else None
        yield llm_item(planner or "crewAI's default", role, owner, "planning_llm")
    if memory := memory_of(crew):
        yield from memory_items(memory, owner)
    yield from _knowledge(crew, owner)
    for field, seam in _CALLBACKS.items():
        given = getattr(crew, field)
        for callback in given if isinstance(given, list) else [given]:
            if callback is None:
                continue
            callback = callback_behind(callback)
            if not _is_crewais(callback):
                yield _code("callback", field, callback, owner, seam if durable else None)


def of_process() -> Iterator[Item]:
    """Hooks and event handlers: they see every run of the process."""
    for point in InterceptionPoint:
        for hook in get_hooks(point):
            yield _code("hook", point.value, hook, PROCESS)
    events: dict[Any, list[str]] = {}
    for event, handler in event_handlers():
        if not _is_crewais(handler):
            events.setdefault(handler, []).append(event)
    for handler, kinds in sorted(events.items(), key=lambda found: (found[1], _called(found[0]))):
        yield _code("handler", ", ".join(sorted(kinds)), handler, PROCESS)


def tools_of_task(task: Task) -> list[BaseTool]:
    """The tools that `task` brings: one without any has its agent's."""
    agents = task.agent.tools or [] if task.agent is not None else []
    return [tool for tool in task.tools or [] if not any(tool is each for each in agents)]


def guardrails_of_task(task: Task) -> list[Any]:
    given = task.guardrails or task.guardrail
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def knowledge_sources(holder: Any) -> list[Any]:
    """The sources of the knowledge of an agent or a crew."""
    knowledge = holder.knowledge
    return list(holder.knowledge_sources or (knowledge.sources if knowledge is not None else []))


# One of each ----------------------------------------------------------------------


def llm_item(llm: Any, role: str | None, owner: str, field: str | None = None) -> Item:
    model = str(getattr(llm, "model", None) or llm)
    name = model if field is None else f"{model} ({field})"
    if role is not None:
        return Item("llm", name, owner, role, ANSWERED, llm)
    seam = names.LLM if isinstance(llm, DBOSLLM) else None
    return Item("llm", name, owner, seam, ANSWERED if seam else AGAIN, llm)


def tool_item(tool: Any, config: ToolStepConfig, owner: str) -> Item:
    kind = decorated_kind(tool_function(tool))
    entry = f"tool:{sanitize_tool_name(tool.name)}(...)"
    if kind == "workflow":
        seam, recovery = "a child workflow", "its result; it recovers by itself"
    elif kind == "transaction":
        seam, recovery = _OWN_RECORD, "committed once"
    elif kind == "step" or for_tool(config, tool.name) is not None:
        seam, recovery = entry, ANSWERED
    else:
        return Item("tool", tool.name, owner, None, AGAIN, tool)
    return Item("tool", tool.name, owner, seam, recovery, tool)


def made_twice(items: Iterable[Item]) -> list[str]:
    """The tools whose effect happens twice if a crash cuts a call of them short after it.

    Those are left out that DBOS keeps from it, and those whose function asks for the key by which a
    service knows the second call.
    """
    tools = [item for item in items if item.kind == "tool" and item.recovery in (ANSWERED, AGAIN)]
    return list(dict.fromkeys(item.name for item in tools if not _has_key(item.live)))


def _has_key(tool: Any) -> bool:
    function = inspect.unwrap(tool_function(tool)) if isinstance(tool, BaseTool) else None
    function = getattr(function, "__func__", function)  # of a method
    if not inspect.isfunction(function):
        return False
    source = Sources()
    own = source.code_of(function)
    called = [] if own is None else followed(own, source.code_of)
    return any(
        "idempotency_key" in code.co_names
        for each in (function, *(code.function for code in called))
        for code in _code_in(each.__code__)
    )


def _code_in(code: CodeType) -> Iterator[CodeType]:
    """`code`, and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_in(constant)


def _tools_of(server: str, config: ToolStepConfig, owner: str) -> Item:
    """The tools of a server; which ones it has is not known before a run asks it."""
    name = f"tools of {server}"
    if config is None:
        return Item("tool", name, owner, None, AGAIN)
    if isinstance(config, StepConfig):
        return Item("tool", name, owner, "tool:name(...)", ANSWERED)
    named = ", ".join(sorted(tool for tool, chosen in config.items() if chosen is not None))
    if not named:
        return Item("tool", name, owner, None, AGAIN)
    return Item("tool", name, owner, f"tool:name(...) of {named}", f"{ANSWERED}; others {AGAIN}")


def _mcp(server: Any, config: ToolStepConfig, owner: str) -> Iterator[Item]:
    if isinstance(server, str):
        name = _without_secrets(server)
        yield Item("mcp", name, owner, None, "asked for its tools again", server)
    else:
        name = _without_secrets(getattr(server, "url", None) or server.command)
        recovery = "the same tools, not asked again"
        yield Item("mcp", name, owner, names.MCP_DISCOVERY, recovery, server)
    yield _tools_of(name, config, owner)


def _without_secrets(address: str) -> str:
    """`address` less user, password and query, where some servers want their key."""
    parts = urlsplit(address)
    if not parts.scheme:
        return address
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


def memory_items(memory: Any, owner: str) -> Iterator[Item]:
    seam = f"{names.MEMORY_RECALL}, {names.MEMORY_SAVE}"
    recovery = f"{ANSWERED}; a save cut short is done again"
    yield Item("memory", type(memory).__name__, owner, seam, recovery, memory)
    inner = memory_behind(memory)
    yield llm_item(getattr(inner, "llm", None), names.MEMORY_LLM, owner)
    yield Item("embedder", "memory", owner, "embedding(...)", ANSWERED)


def _knowledge(holder: Any, owner: str) -> Iterator[Item]:
    knowledge, sources = holder.knowledge, knowledge_sources(holder)
    recovery = f"queries {ANSWERED}; the source is loaded again"
    for source in sources:
        yield Item("knowledge", _source(source), owner, names.KNOWLEDGE_QUERY, recovery, source)
    if knowledge is not None and not sources:
        name = type(knowledge.storage).__name__
        yield Item("knowledge", name, owner, names.KNOWLEDGE_QUERY, ANSWERED, knowledge)


def _source(source: Any) -> str:
    paths = getattr(source, "file_paths", None) or getattr(source, "file_path", None)
    if not paths:
        return type(source).__name__
    paths = paths if isinstance(paths, (list, tuple)) else [paths]
    return f"{type(source).__name__}: {', '.join(map(str, paths))}"


def _guardrail(guardrail: Any, owner: str, *, durable: bool = True) -> Item:
    if isinstance(guardrail, str):
        return Item("guardrail", "a text", owner, names.LLM, ANSWERED, guardrail)
    if isinstance(guardrail, LLMGuardrail):
        return Item("guardrail", "LLMGuardrail", owner, names.GUARDRAIL_LLM, ANSWERED, guardrail)
    return _code("guardrail", None, guardrail, owner, names.GUARDRAIL if durable else None)


def _code(kind: str, field: str | None, function: Any, owner: str, seam: str | None = None) -> Item:
    """A function of the user's that crewAI calls, and the entry that its calls are, if any."""
    name = _called(function) if field is None else f"{_called(function)} ({field})"
    if seam is not None:
        return Item(kind, name, owner, seam, "not called again", function)
    if decorated_kind(function) is not None:
        return Item(kind, name, owner, _OWN_RECORD, "not called again", function)
    return Item(kind, name, owner, None, REPLAYED, function)


def _called(function: Any) -> str:
    named = getattr(function, "func", function)
    return str(getattr(named, "__qualname__", type(named).__qualname__))


def _is_crewais(function: Any) -> bool:
    package = (getattr(function, "__module__", None) or "").partition(".")[0]
    return package in ("crewai", "crewai_dbos")
