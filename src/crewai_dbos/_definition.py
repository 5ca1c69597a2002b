"""Definitions: the names by which a fresh process finds the code of a run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from crewai import Agent

from crewai_dbos._config import StepConfig, ToolStepConfig
from crewai_dbos._errors import DefinitionError


@dataclass(frozen=True)
class AgentDefinition:
    """What a `DBOSAgent` is made of.

    Attributes:
        name: Stored with every run of it.
        source: The user's agent, or a callable that builds one.
        front: The `DBOSAgent` itself.
    """

    name: str
    source: Agent | Callable[[], Agent]
    llm_step_config: StepConfig | None
    function_calling_llm_step_config: StepConfig | None
    tool_step_config: ToolStepConfig
    front: Agent = field(repr=False)

    def build(self) -> Agent:
        """The user's agent to copy, or a new one."""
        return build_agent(self.source)


def build_agent(source: Any) -> Agent:
    """The agent that `source` is or builds.

    Raises:
        DefinitionError: It is and builds something else.
    """
    agent = source if isinstance(source, Agent) else source() if callable(source) else None
    if not isinstance(agent, Agent):
        raise DefinitionError(
            f"orig_agent must be a crewai Agent or a callable that returns one, not {source!r}"
        )
    return agent


class Registry:
    """The definitions of this process, by name."""

    def __init__(self) -> None:
        self._definitions: dict[str, AgentDefinition] = {}
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self._changed = threading.Condition()

    def add(self, definition: AgentDefinition) -> None:
        """Register `definition` and wake the runs that wait for it.

        Raises:
            DefinitionError: Its name is empty or taken.
        """
        name = definition.name
        if not isinstance(name, str) or not name.strip():
            raise DefinitionError(
                "agent_name must be a non-empty string: it is how a run finds its agent again "
                "after a restart"
            )
        with self._changed:
            if name in self._definitions:
                raise DefinitionError(
                    f"An agent named {name!r} is defined already. Give each DBOSAgent its own "
                    "agent_name, and build it once, where the module is imported."
                )
            self._definitions[name] = definition
            waiting = self._waiting.pop(name, [])
            self._changed.notify_all()
        for wake in waiting:
            wake()

    def find(self, name: str, timeout: float = 0.0) -> AgentDefinition | None:
        """The definition called `name`, waiting up to `timeout` seconds for it."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._definitions, timeout)
            return self._definitions.get(name)

    def when_added(self, name: str, wake: Callable[[], None]) -> None:
        """Call `wake` once, as soon as there is a definition called `name`."""
        with self._changed:
            if name not in self._definitions:
                self._waiting.setdefault(name, []).append(wake)
                return
        wake()

    def names(self) -> list[str]:
        with self._changed:
            return sorted(self._definitions)

    def clear(self) -> None:
        with self._changed:
            self._definitions.clear()
            self._waiting.clear()


agents = Registry()
