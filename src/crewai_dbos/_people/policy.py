"""Who is asked about what, and for how long: the `people` of a definition."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, get_args

from crewai.utilities.string_utils import sanitize_tool_name

from crewai_dbos._leases import RunVar
from crewai_dbos._requests.request import OnDeadline, Request
from crewai_dbos._setting import setting
from crewai_dbos.errors import DefinitionError


@dataclass(frozen=True)
class ToolRequest:
    """A tool call that is about to be made.

    Attributes:
        tool: The name of the tool.
        arguments: What it is called with, by name.
        agent: The role of the agent that calls it, as it is written, with its placeholders; of a
            `DBOSAgent` its name.
        task: The name of its task, or its number in the crew.

    Example::

        from crewai_dbos import People, ToolRequest

        def is_large(request: ToolRequest) -> bool:
            return request.tool == "pay" and request.arguments["cents"] > 10_000

        people = People(approve_tools=is_large)
    """

    tool: str
    arguments: dict[str, Any]
    agent: str | None = None
    task: str | None = None


@dataclass(frozen=True, kw_only=True)
class People:
    """How the runs of a definition ask people.

    Attributes:
        approve_tools: The names of the tools whose calls a person has to approve; or a function
            that says of a `ToolRequest` whether. On recovery it is asked again about calls that
            are not recorded.
        deadline: For how long a request can be answered; None for ever. ``ask`` and a flow's
            ``ask(timeout=)`` may say otherwise.
        on_deadline: What becomes of a request that nobody answers: ``reject`` (the tool is not
            called, a review or question raises `RequestExpired`), ``approve`` (the tool is called,
            a review counts as accepted; a question raises), or ``fail`` (the run stops, and asks
            anew when it is resumed).
        audience: For whom the requests are; a list of them can be asked for by it.
        edit: Whether the arguments of a tool call may be changed when it is approved.
        linger: For how many seconds a run in which all waits is kept in memory before it is left to
            its row.
        notify: Is called with each new `Request`, once. What it raises is logged.

    Raises:
        DefinitionError: An option can't mean anything.

    Example::

        from datetime import timedelta

        from crewai_dbos import People

        people = People(
            approve_tools=["send_email"], deadline=timedelta(days=3), audience="support"
        )
    """

    approve_tools: Collection[str] | Callable[[ToolRequest], bool] = ()
    deadline: timedelta | None = None
    on_deadline: OnDeadline = "reject"
    audience: str | None = None
    edit: bool = True
    linger: float = 5.0
    notify: Callable[[Request], Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.approve_tools, str):
            raise DefinitionError(
                "approve_tools is a list of tool names, or a function: "
                f"approve_tools=[{self.approve_tools!r}]"
            )
        if self.on_deadline not in get_args(OnDeadline):
            raise DefinitionError(
                f"on_deadline is one of {', '.join(map(repr, get_args(OnDeadline)))}, not "
                f"{self.on_deadline!r}"
            )
        if self.deadline is not None and self.deadline <= timedelta(0):
            raise DefinitionError("deadline is a time from when it is asked: timedelta(hours=8)")
        if self.linger < 0:
            raise DefinitionError("linger is a number of seconds, 0 or more")

    def wants(self, request: ToolRequest) -> bool:
        """Whether a person has to approve the call."""
        if callable(self.approve_tools):
            return bool(self.approve_tools(request))
        return sanitize_tool_name(request.tool) in self.tools

    @cached_property
    def tools(self) -> set[str]:
        """The tools that are named, as crewAI writes them for a model."""
        if callable(self.approve_tools):
            return set()
        return {sanitize_tool_name(name) for name in self.approve_tools}

    @property
    def seconds(self) -> float | None:
        """The deadline in seconds."""
        return None if self.deadline is None else self.deadline.total_seconds()


NOBODY = People()
"""Of definitions without one: nothing is approved, and requests can be answered for ever."""

_people: RunVar[People] = RunVar("crewai_dbos_people", default=NOBODY)


def current() -> People:
    """What holds for requests that are made here."""
    return _people.get()


def holding(people: People | None) -> AbstractContextManager[Any]:
    """In the block `people` holds; None changes nothing."""
    return setting(_people, current() if people is None else people)


_role: RunVar[tuple[str, str] | None] = RunVar("crewai_dbos_role", default=None)


def working_as(written: str, role: str) -> AbstractContextManager[Any]:
    """In the block an agent is at work whose role is `written` so, with its inputs `role`."""
    return setting(_role, (written, role))


def role_of(agent: str | None) -> str | None:
    """`agent`, a role as it is written, with its inputs, if it is that of who is at work here."""
    known = _role.get()
    return known[1] if known is not None and known[0] == agent else agent
