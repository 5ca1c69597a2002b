"""The modules of the user's that a definition is made of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from crewai import Agent, Crew
from crewai.flow.flow import Flow

from crewai_dbos._stored import modules
from crewai_dbos._stored.work_order import TASK_MODELS

_OTHERS = ("crewai", "crewai_tools", "crewai_dbos", "pydantic", "builtins", "functools")
_OF_TASK = (*TASK_MODELS, "callback", "guardrail")


def note(source: Any, owner: Any) -> None:
    """Let runs of a definition name classes that its modules know.

    Args:
        source: What the user has wrapped, or what builds it.
        owner: The durable object.
    """
    found = {_module_of(each) for each in (source, *_made_of(owner))}
    modules.defined_in(name for name in {*found, _caller()} if _is_of_the_user(name))


def _is_of_the_user(name: Any) -> bool:
    return isinstance(name, str) and name.partition(".")[0] not in _OTHERS


@dataclass(frozen=True)
class Site:
    """Where a definition is made.

    Attributes:
        module: The name of the user's module.
        code: What is running there.
    """

    module: str | None
    code: CodeType

    def was_loaded_anew_since(self, before: Site | None) -> bool:
        """Whether `before` was made by the same module, which has been run again since then.

        So it is after a reload, and after a cell of a notebook was run again. A module that makes
        two of one name, or a function that is called twice, is the same code.
        """
        return (
            before is not None
            and self.module == before.module
            and self.code is not before.code
            and all(each.code.co_name.startswith(("<module>", "<cell")) for each in (self, before))
        )


def site() -> Site | None:
    """Where the user's code is that is making a definition."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_of_the_user(frame.f_globals.get("__name__")):
        frame = frame.f_back
    return None if frame is None else Site(frame.f_globals.get("__name__"), frame.f_code)


def _caller() -> str | None:
    found = site()
    return None if found is None else found.module


def _module_of(value: Any) -> Any:
    return getattr(value, "__module__", None)


def _made_of(owner: Any) -> Iterator[Any]:
    if isinstance(owner, Agent):
        yield from _tools(owner)
        yield owner.guardrail
    elif isinstance(owner, Crew):
        for agent in owner.agents:
            yield from _made_of(agent)
        for task in owner.tasks:
            yield from _tools(task)
            yield from (getattr(task, name, None) for name in _OF_TASK)
    elif isinstance(owner, Flow):
        yield type(owner.state)


def _tools(holder: Any) -> Iterator[Any]:
    for tool in holder.tools or []:
        yield type(tool)
        yield getattr(tool, "func", None)
