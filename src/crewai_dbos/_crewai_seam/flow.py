"""What is private in crewAI's flows.

crewAI is not imported here: the search for secrets asks for names of this module in processes that
never load crewAI.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crewai.flow.human_feedback import HumanFeedbackResult
    from crewai.types.usage_metrics import UsageMetrics

STATE = "_state"
"""The attribute of a flow with its state."""

OF_THE_ENGINE = ("_flow_post_init_done", "_skip_auto_memory", "_deferred_flow_started_event_id")
"""Attributes that crewAI sets on a flow beside its fields, for its engine."""


def definition_of(flow: Any) -> Any:
    """What `flow`, an object, is made of: crewAI's `FlowDefinition`."""
    return flow._definition


def methods_of(flow: Any) -> Mapping[str, Any]:
    """The methods of `flow`, bound to it, by name."""
    found: Mapping[str, Any] = flow._methods
    return found


def tools_of_actions(flow: Any) -> tuple[Any, ...]:
    """The tools that the actions of a declared flow use."""
    return tuple(vars(flow).get("_tool_action_tools", ()))


def is_conversational(flow: Any) -> bool:
    """Whether `flow` can take turns."""
    return bool(flow._is_conversational_enabled())


@contextmanager
def streaming_turn(flow: Any) -> Iterator[None]:
    """In the block the LLM of a conversation is asked to stream."""
    before = flow._streaming_conversation_turn
    flow._streaming_conversation_turn = True
    try:
        yield
    finally:
        flow._streaming_conversation_turn = before


def saves_by_itself(flow: Any) -> bool:
    """Whether `flow`, an object, was given a persistence of its own."""
    return bool(flow._instance_persistence)


# State -------------------------------------------------------------------------


def state_of(flow: Any) -> Any:
    """The state of `flow`."""
    return flow._state


def set_state(flow: Any, state: Any) -> None:
    """Give `flow` another state."""
    flow._state = state


def type_of_state(cls: Any) -> Any:
    """What a flow class says in ``Flow[...]``; None if it says nothing."""
    return getattr(cls, "_initial_state_t", None)


def now_of(flow: Any) -> Any:
    """The time that the expressions of a declared flow see."""
    return flow._cel_now


def set_now(flow: Any, now: Any) -> None:
    """Let the expressions of a declared flow see the time `now`."""
    flow._cel_now = now


def add_usage(flow: Any, usage: UsageMetrics) -> None:
    """Count on `flow` what calls have used that its listeners have not heard of."""
    flow._aggregated_usage_metrics.add_usage_metrics(usage)


# People ------------------------------------------------------------------------


def stashed_review(flow: Any, method: str) -> HumanFeedbackResult | None:
    """The review of `method` that `flow` keeps aside while it goes on with an outcome."""
    found: HumanFeedbackResult | None = flow._human_feedback_method_outputs.get(method)
    return found


def stash_review(flow: Any, method: str, review: HumanFeedbackResult) -> None:
    """Keep the review of `method` aside, as crewAI does."""
    flow._human_feedback_method_outputs[method] = review


def remember_input(flow: Any, asked: Mapping[str, Any]) -> None:
    """Add what was asked, and the answer, to the history of ``flow.ask``."""
    flow._input_history.append(dict(asked))


def checkpoint_for_ask(flow: Any) -> None:
    """Save the state of `flow`, if it has a persistence, as crewAI does before it asks."""
    flow._checkpoint_state_for_ask()
