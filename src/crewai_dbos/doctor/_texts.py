"""Texts that a run stores or sends to the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from crewai import Agent, Crew, Task
from crewai.tasks.llm_guardrail import LLMGuardrail
from crewai.tools.base_tool import BaseTool

from crewai_dbos._secrets.texts import texts_in
from crewai_dbos.doctor._flow import FlowParts
from crewai_dbos.doctor._items import guardrails_of_task, knowledge_sources, tools_of_task

_OF_AGENT = (
    *("role", "goal", "backstory"),
    *("system_template", "prompt_template", "response_template"),
)
_OF_TASK = ("name", "description", "expected_output", "prompt_context")


@dataclass(frozen=True)
class Text:
    """A text of a definition.

    Attributes:
        place: What it is, as ``backstory of agent 'support'``.
        text: The text itself.
        fate: What happens to it in a run.
    """

    place: str
    text: str
    fate: str


def of_agent(agent: Agent, owner: str) -> Iterator[Text]:
    """The texts of `agent` and of what it works with."""
    fate = "is sent to the model, and stored with a run for which a crew fills it in"
    for field in _OF_AGENT:
        if isinstance(text := getattr(agent, field, None), str):
            yield Text(f"The {field} of {owner}", text, fate)
    for tool in agent.tools or []:
        yield from _of_tool(tool)
    yield from _of_guardrail(agent.guardrail, owner)
    yield from _of_knowledge(agent, owner)


def of_task(task: Task, owner: str, *, durable: bool = False) -> Iterator[Text]:
    """The texts of `task` and of the tools and guardrails that it brings.

    Args:
        durable: Whether it is of a `DBOSCrew`, whose journal says where its file went.
    """
    for field in (*_OF_TASK, "output_file") if durable else _OF_TASK:
        if isinstance(text := getattr(task, field, None), str):
            yield Text(f"The {field} of {owner}", text, "is stored with the run")
    for tool in tools_of_task(task):
        yield from _of_tool(tool)
    for guardrail in guardrails_of_task(task):
        yield from _of_guardrail(guardrail, owner)


def of_crew(crew: Crew) -> Iterator[Text]:
    """The texts of `crew` itself; its agents' and tasks' are not among them."""
    return _of_knowledge(crew, "the crew")


def _of_tool(tool: BaseTool) -> Iterator[Text]:
    fate = "is shown to the model, which may repeat it in a call or an answer that is stored"
    yield Text(f"The description of tool {tool.name!r}", tool.description, fate)
    for name, argument in tool.args_schema.model_fields.items():
        for text in texts_in(argument.get_default(call_default_factory=False)):
            yield Text(f"The default of {name!r} of tool {tool.name!r}", text, fate)


def _of_guardrail(guardrail: Any, owner: str) -> Iterator[Text]:
    text = guardrail.description if isinstance(guardrail, LLMGuardrail) else guardrail
    if isinstance(text, str):
        fate = "is sent to the model, which may repeat it in an answer that is stored"
        yield Text(f"The guardrail of {owner}", text, fate)


def _of_knowledge(holder: Any, owner: str) -> Iterator[Text]:
    fate = "is found by queries, and what these find is stored with the run"
    for source in knowledge_sources(holder):
        for text in texts_in(getattr(source, "content", None)):
            yield Text(f"The content of the {type(source).__name__} of {owner}", text, fate)


def of_flow(flow: FlowParts) -> Iterator[Text]:
    """The texts of `flow`, and those in the state that a run begins with."""
    for name, value in flow.state_fields().items():
        for text in texts_in(value):
            yield Text(f"The field {name!r} of the state", text, "is stored with the run")
    for name, method in flow.definition.methods.items():
        if method.human_feedback is not None:
            text, fate = method.human_feedback.message, "is shown to the person who is asked"
            yield Text(f"The message of human_feedback of method {name!r}", text, fate)
    prompt = getattr(flow.definition.conversational, "system_prompt", None)
    if isinstance(prompt, str):
        yield Text("The system_prompt of the flow", prompt, "is sent to the model")
