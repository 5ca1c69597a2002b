"""What there can be a run of: agents, crews and flows, each with how it is carried out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from crewai_dbos._runs.registry import Registry


class WorkOrder(Protocol):
    """What a run is asked to do."""

    def stored(self, definition: Any) -> dict[str, Any]:
        """The work order as plain JSON.

        Raises:
            UnstorableInputError: Something in it could not be rebuilt by another process.
        """


D = TypeVar("D", bound=Any)
W = TypeVar("W", bound=WorkOrder)


@dataclass(frozen=True)
class Kind(Generic[D, W]):
    """One kind of run; it is known by its noun as soon as its module is imported.

    Attributes:
        registry: Where its definitions are.
        load: From a stored work order to live objects.
        perform: Carries out a work order in the open workflow; says whether that was opened for it.
        aperform: As `perform`, for async code; may be told the method that it is to call.
        workflow: The workflow of a run of its own.
        async_workflow: The same for async code.
        instead: The methods that async code calls in place of a sync one.
        attributes: Of a work order, what DBOS is to keep beside it; none of it is needed.
        blocks_loops: Whether a sync call may keep the event loop waiting that it is made in, as in
            a notebook. Never that of a workflow.
    """

    registry: Registry[D]
    load: Callable[[Mapping[str, Any], D], W]
    perform: Callable[[D, W, bool], Any]
    aperform: Callable[..., Coroutine[Any, Any, Any]]
    workflow: Callable[[dict[str, Any]], Any]
    async_workflow: Callable[[dict[str, Any]], Awaitable[Any]]
    instead: str
    attributes: Callable[[W], Mapping[str, Any]] = lambda _: {}
    blocks_loops: bool = False

    def __post_init__(self) -> None:
        _kinds[self.registry.noun] = self


_kinds: dict[str, Kind[Any, Any]] = {}


def kind_of(noun: str) -> Kind[Any, Any]:
    """The kind called `noun`; there is one as soon as something of it is defined."""
    return _kinds[noun]
