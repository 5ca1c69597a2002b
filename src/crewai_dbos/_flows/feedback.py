"""What people say in a flow: asked once, and kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, cast

from crewai.flow.async_feedback.types import HumanFeedbackPending, PendingFeedbackContext
from crewai.flow.flow_context import current_flow_method_name
from crewai.flow.human_feedback import HumanFeedbackResult

from crewai_dbos._crewai_seam.flow import remember_input, stash_review, stashed_review
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._stored import codec, names
from crewai_dbos._threads import finished
from crewai_dbos.errors import UnstorableValueError


@dataclass(frozen=True)
class Pending:
    """What a kickoff returned that ended because a person has to be asked elsewhere.

    Attributes:
        context: crewAI's `PendingFeedbackContext`, as a dict.
        callback_info: What the provider said of where it asked.
        given: Fields of the context that a dict of crewAI's holds in another form, as they were.
    """

    context: dict[str, Any]
    callback_info: dict[str, Any]
    given: dict[str, Any] = field(default_factory=dict)

    def as_returned(self) -> HumanFeedbackPending:
        """What `Flow.kickoff` returns."""
        context = PendingFeedbackContext.from_dict(self.context)
        return HumanFeedbackPending(replace(context, **self.given), self.callback_info)


def pending(found: HumanFeedbackPending, known: tuple[type, ...]) -> Pending:
    """What is stored of `found`.

    Args:
        found: What a kickoff returned.
        known: Classes that need not be importable.
    """
    given = {}
    for name in ("method_output", "metadata"):
        value = getattr(found.context, name)
        try:
            codec.encode(value, known)
            given[name] = value
        except (UnstorableValueError, RuntimeError) as error:
            run_scope.warn_once(
                f"What a person is asked about elsewhere (its {name}) is returned as crewAI's own "
                f"store keeps it: {error}"
            )
    return Pending(found.context.to_dict(), dict(found.callback_info), given)


REQUEST = Call(names.REQUEST, kind="person", background=True)


class RecordedProvider:
    """Asks through `provider`, of crewAI's protocol, what has not been asked before."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def request_feedback(self, context: Any, flow: Any) -> Any:
        ask = self._provider.request_feedback
        scope = run_scope.enclosing()
        if scope is None:
            return ask(context, flow)
        if not inspect.iscoroutinefunction(ask):
            asked = lambda: _or_pending(lambda: finished(ask(context, flow)))  # noqa: E731
            return _answer(scope.run(REQUEST, asked), context)

        async def request() -> Any:
            try:
                return await ask(context, flow)
            except HumanFeedbackPending as pending:
                return {"pending": pending.callback_info}

        async def arecorded() -> Any:
            return _answer(await scope.arun(REQUEST, request), context)

        return arecorded()


def stored_review(flow: Any, method: str, result: Any, known: tuple[type, ...]) -> dict[str, Any]:
    """What has to be stored of the review of `method`, for `restore`.

    Args:
        result: What the engine goes on with.
        known: Classes that need not be importable.
    """
    stashed = stashed_review(flow, method)
    feedback = cast(HumanFeedbackResult, result if stashed is None else stashed)
    stored: dict[str, Any] = {"feedback": feedback}
    try:
        codec.encode(feedback.output, known)
    except (UnstorableValueError, RecursionError):
        stored = {"feedback": replace(feedback, output=None), "again": True}
    return stored if stashed is None else {**stored, "outcome": result}


def restore(flow: Any, method: str, done: dict[str, Any], output: Any) -> Any:
    """Leave `flow` as after the review of `method`. Returns what the engine goes on with.

    Args:
        output: What the method returned, which was run again if that could not be stored.
    """
    feedback = cast(HumanFeedbackResult, done["feedback"])
    if done.get("again"):
        feedback = replace(feedback, output=output)
    flow.human_feedback_history.append(feedback)
    flow.last_human_feedback = feedback
    if "outcome" not in done:
        return feedback
    stash_review(flow, method, feedback)
    return done["outcome"]


def restore_instead(flow: Any, method: str, result: Any, done: dict[str, Any], output: Any) -> Any:
    """As `restore`, of a review that has just been made: what it has left gives way.

    Args:
        result: What the engine would go on with.
    """
    stashed = stashed_review(flow, method)
    made = result if stashed is None else stashed
    history = flow.human_feedback_history
    history[:] = [each for each in history if each is not made]
    return restore(flow, method, done, output)


def remember(flow: Any, message: str, response: str | None) -> None:
    """Leave `flow` as after ``flow.ask(message)``."""
    remember_input(
        flow,
        {
            "message": message,
            "response": response,
            "method_name": current_flow_method_name.get("unknown"),
            "timestamp": datetime.now(),
            "metadata": None,
            "response_metadata": None,
        },
    )


def _or_pending(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except HumanFeedbackPending as pending:
        return {"pending": pending.callback_info}


def _answer(answer: Any, context: Any) -> Any:
    if isinstance(answer, dict) and "pending" in answer:
        raise HumanFeedbackPending(context, answer["pending"])
    return answer
