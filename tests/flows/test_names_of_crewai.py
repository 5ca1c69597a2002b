"""What crewAI keeps in private attributes, some also in the flow's own dict, and users call so."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from crewai.events import FlowFinishedEvent, crewai_event_bus
from crewai.flow.flow import Flow, listen, start

from flows.test_runs import durable

pytestmark = pytest.mark.usefixtures("launched")


class Deferring(Flow[dict[str, Any]]):
    """Ends its trace itself, as the flow of a conversation does."""

    defer_trace_finalization: bool = True

    @start()
    def ends_it(self) -> str:
        self.finalize_session_traces()
        return "ended"


def finished(kickoff: Any) -> int:
    """How often the flow is said to have finished."""
    told: list[str] = []
    with crewai_event_bus.scoped_handlers():

        @crewai_event_bus.on(FlowFinishedEvent)
        def hear(_: Any, event: FlowFinishedEvent) -> None:
            told.append(event.flow_name)

        assert kickoff() == "ended"
        crewai_event_bus.flush()
    return len(told)


def test_what_it_sets_past_pydantic_is_found() -> None:
    plain = finished(Deferring().kickoff)
    assert plain
    assert finished(durable(Deferring).kickoff) == plain


class Named(Flow[dict[str, Any]]):
    def _input_history(self) -> list[str]:
        return ["a method of the user's"]

    @property
    def _event_futures(self) -> list[str]:
        return []

    @start()
    def asks(self) -> list[str]:
        return self._input_history()

    @listen(asks)
    def asks_again(self) -> list[str]:
        return [*self._event_futures, *self._input_history()]


def test_a_method_of_the_users_with_such_a_name() -> None:
    assert durable(Named).kickoff() == Named().kickoff()


class Asked(Flow[dict[str, Any]]):
    """Looks itself where its attributes are."""

    asked: ClassVar[list[str]] = []

    def __getattribute__(self, name: str) -> Any:
        if name == "_input_history":
            type(self).asked.append(name)
        return super().__getattribute__(name)

    @start()
    def asks(self) -> int:
        before = len(Asked.asked)
        assert not self._input_history
        return len(Asked.asked) - before


def test_a_class_that_looks_itself_is_asked() -> None:
    assert durable(Asked).kickoff() == Asked().kickoff() == 1
