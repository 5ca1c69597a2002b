"""Texts that a run stores or sends to the model, and the secrets in them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from crewai import Agent, Task
from crewai.llms.base_llm import BaseLLM
from pydantic import BaseModel

from crewai_dbos._stored import secret_texts
from crewai_dbos.doctor._flow import FlowParts

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
        text: It.
        fate: What happens to it in a run.
    """

    place: str
    text: str
    fate: str


def of_agent(agent: Agent, owner: str) -> Iterator[Text]:
    """The texts of `agent` and of the tools that the model is told of."""
    fate = "is sent to the model, and stored with a run for which a crew fills it in"
    for field in _OF_AGENT:
        if isinstance(text := getattr(agent, field, None), str):
            yield Text(f"The {field} of {owner}", text, fate)
    fate = "is shown to the model, which may repeat it in a call or an answer that is stored"
    for tool in agent.tools or []:
        yield Text(f"The description of tool {tool.name!r}", tool.description, fate)
        for name, argument in tool.args_schema.model_fields.items():
            if isinstance(default := argument.default, str):
                yield Text(f"The default of {name!r} of tool {tool.name!r}", default, fate)


def of_task(task: Task, owner: str) -> Iterator[Text]:
    for field in _OF_TASK:
        if isinstance(text := getattr(task, field, None), str):
            yield Text(f"The {field} of {owner}", text, "is stored with the run")


def of_flow(flow: FlowParts) -> Iterator[Text]:
    """The texts of `flow`, and those in the state that a run begins with."""
    for name, value in flow.state_fields().items():
        for text in _inside(value):
            yield Text(f"The field {name!r} of the state", text, "is stored with the run")
    for name, method in flow.definition.methods.items():
        if method.human_feedback is not None:
            text, fate = method.human_feedback.message, "is shown to the person who is asked"
            yield Text(f"The message of human_feedback of method {name!r}", text, fate)
    prompt = getattr(flow.definition.conversational, "system_prompt", None)
    if isinstance(prompt, str):
        yield Text("The system_prompt of the flow", prompt, "is sent to the model")


def _inside(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, BaseModel):
        yield from _inside(value.__dict__)
    elif isinstance(value, (dict, list, tuple, set)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _inside(item)


def known_secrets(llms: Iterable[Any]) -> dict[str, str]:
    """Secrets that this process knows, and what each is called."""
    secrets = {}
    for llm in llms:
        if isinstance(llm, BaseLLM):
            secrets.update(
                dict.fromkeys(secret_texts.of_llm(llm), f"a key of the LLM {llm.model!r}")
            )
    for secret in secret_texts.of_environment():
        names = (name for name, value in os.environ.items() if value.endswith(secret))
        secrets[secret] = next(names, "an environment variable")
    return secrets
