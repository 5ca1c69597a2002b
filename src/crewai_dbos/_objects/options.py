"""How the calls of an agent are recorded, as a definition is given it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from crewai_dbos._journal.config import PLAIN, StepConfig, ToolStepConfig
from crewai_dbos.errors import DefinitionError


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """How the calls of an agent are recorded.

    Attributes:
        llm_step_config: Of its LLM's requests; None for `LLM_DEFAULT`.
        function_calling_llm_step_config: Of the requests of its ``function_calling_llm``.
        tool_step_config: Of its tools without a DBOS decorator; None does not record them.
    """

    llm_step_config: StepConfig | None = None
    function_calling_llm_step_config: StepConfig | None = None
    tool_step_config: ToolStepConfig = None

    def __post_init__(self) -> None:
        check_step_configs(**vars(self))

    def under(self, own: AgentOptions) -> AgentOptions:
        """`own`, and these where it says nothing."""
        chosen = {name: value for name, value in vars(own).items() if value is not None}
        return replace(self, **chosen)


def check_step_configs(**given: Any) -> None:
    """Refuse what is none of the options of `AgentOptions`, by name.

    Raises:
        DefinitionError: One is no `StepConfig`, nor a dict of them where that is taken.
    """
    for name, value in given.items():
        of_tools = name == "tool_step_config"
        for tool, each in (
            value if of_tools and isinstance(value, Mapping) else {"": value}
        ).items():
            if each is not None and not isinstance(each, StepConfig):
                of_tool = f" for {tool!r}" if tool else ""
                also = " or a dict of them by tool" if of_tools else ""
                raise DefinitionError(
                    f"{name} takes a StepConfig{also}, and got a {type(each).__name__}{of_tool}."
                )


def recording_others(options: AgentOptions) -> AgentOptions:
    """In a crew a tool that is not named is recorded."""
    tools = options.tool_step_config
    if tools is None or isinstance(tools, StepConfig):
        return options
    return replace(options, tool_step_config=RecordedByDefault(tools))


class RecordedByDefault(dict[str, "StepConfig | None"]):
    """A mapping of tool names in which a tool that is not named is recorded."""

    def get(self, name: str, default: Any = None) -> StepConfig | None:
        return super().get(name, PLAIN)
