"""What a flow asks of people where crewAI would read a terminal: requests in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.flow_events import (
    FlowInputReceivedEvent,
    FlowInputRequestedEvent,
    HumanFeedbackReceivedEvent,
    HumanFeedbackRequestedEvent,
)
from crewai.flow.async_feedback.providers import ConsoleProvider
from crewai.flow.flow_context import current_flow_method_name
from pydantic_core import to_jsonable_python

from crewai_dbos._crewai_seam.flow import checkpoint_for_ask, definition_of
from crewai_dbos._flows.feedback import REQUEST
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.scope import Scope
from crewai_dbos._people import asking, policy
from crewai_dbos._people.asking import Asking
from crewai_dbos._people.review import stopping, text_of
from crewai_dbos._requests.request import Question
from crewai_dbos._stored import names


def is_terminal(provider: Any) -> bool:
    """Whether `provider` is crewAI's own, which reads a terminal."""
    return type(provider) is ConsoleProvider


@dataclass(frozen=True)
class Review:
    """What crewAI passes where a person is to say something of what a method returned."""

    message: str
    output: Any
    metadata: dict[str, Any] | None
    emit: Sequence[str] | None
    method_name: str


def feedback_on(flow: Any, scope: Scope, review: Review) -> str:
    """What a person says of what a method returned; empty if there is nothing to say."""
    name, outcomes = definition_of(flow).name, list(review.emit) if review.emit else None
    is_new = not scope.journal.record.is_recorded(scope.place, names.REQUEST)

    def announce() -> None:
        crewai_event_bus.emit(
            flow,
            HumanFeedbackRequestedEvent(
                type="human_feedback_requested",
                flow_name=name,
                method_name=review.method_name,
                output=review.output,
                message=review.message,
                emit=outcomes,
            ),
        )

    question = Question(
        review.message,
        output=_text(review.output),
        outcomes=outcomes,
        metadata=_plain(review.metadata),
    )
    asked = replace(stopping(Asking.by_policy("feedback", question)), announce=announce)
    found = asking.ask(scope, REQUEST, asked, text_of).strip()
    if is_new:
        crewai_event_bus.emit(
            flow,
            HumanFeedbackReceivedEvent(
                type="human_feedback_received",
                flow_name=name,
                method_name=review.method_name,
                feedback=found,
                outcome=None,
            ),
        )
    return found


def answer_to(
    flow: Any,
    scope: Scope,
    message: str,
    timeout: float | None,
    metadata: dict[str, Any] | None,
) -> str | None:
    """What a person answers to ``flow.ask(message)``; None if nobody does in time."""
    is_new = not scope.journal.record.is_recorded(scope.place, names.ASK)
    name, method = definition_of(flow).name, current_flow_method_name.get("unknown")

    def announce() -> None:
        crewai_event_bus.emit(
            flow,
            FlowInputRequestedEvent(
                type="flow_input_requested",
                flow_name=name,
                method_name=method,
                message=message,
                metadata=metadata,
            ),
        )
        checkpoint_for_ask(flow)

    people = policy.current()
    asked = Asking(
        "question",
        Question(message, metadata=_plain(metadata)),
        people.seconds if timeout is None else timeout,
        people.on_deadline if timeout is None else "reject",
        people.audience,
        announce,
    )
    call = Call(names.ASK, kind="person", request={"message": message})
    response = asking.ask(scope, call, asked, lambda said: said.reply)
    if is_new:
        crewai_event_bus.emit(
            flow,
            FlowInputReceivedEvent(
                type="flow_input_received",
                flow_name=name,
                method_name=method,
                message=message,
                response=response,
                metadata=metadata,
            ),
        )
    return response


def _text(output: Any) -> str:
    return output if isinstance(output, str) else str(getattr(output, "raw", output))


def _plain(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    found: dict[str, Any] | None = to_jsonable_python(metadata, fallback=str)
    return found
