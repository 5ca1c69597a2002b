"""The recorded calls whose bodies the running code is in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from crewai_dbos._leases import RunVar
from crewai_dbos._setting import setting


@dataclass(frozen=True)
class OpenCall:
    """A recorded call whose body is running on this thread or task.

    Attributes:
        run_id: Of the run.
        name: Its name.
        used: What LLMs have told in it whose requests are not recorded on their own: each a model,
            and its usage.
    """

    run_id: str
    name: str
    used: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list, compare=False)


_call: RunVar[OpenCall | None] = RunVar("crewai_dbos_open_call", default=None)
_group: RunVar[OpenCall | None] = RunVar("crewai_dbos_open_group", default=None)


def open_call() -> OpenCall | None:
    """The recorded call whose body is running; None in between."""
    return _call.get()


def open_group() -> OpenCall | None:
    """The call that is being made up of other recorded calls; None outside of one."""
    return _group.get()


def is_open_call_of_this_thread() -> bool:
    """Whether a call was opened here, and not on the thread that this one works for."""
    return _call.is_set_here()


def inside_call(call: OpenCall | None) -> AbstractContextManager[Any]:
    """The block is the body of `call`: nothing in it is recorded on its own."""
    return setting(_call, call)


def inside_group(call: OpenCall) -> AbstractContextManager[Any]:
    """The block is the body of `call`: what is recorded in it comes first, then its result."""
    return setting(_group, call)
