"""crewAI's review of a task's result by a person, ``human_input=True``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from crewai.core.providers import human_input
from crewai.core.providers.human_input import SyncHumanInputProvider


class Review(SyncHumanInputProvider):
    """A provider whose person is asked elsewhere than at the terminal. Training is crewAI's own.

    Args:
        ask: Is given the result, as a text, and the executor; returns what is to be changed, or an
            empty text.
        aask: The same for async code.
    """

    def __init__(
        self,
        ask: Callable[[str, Any], str],
        aask: Callable[[str, Any], Awaitable[str]],
    ) -> None:
        self._ask = ask
        self._aask = aask

    def handle_feedback(self, formatted_answer: Any, context: Any) -> Any:
        if context._is_training_mode():
            return super().handle_feedback(formatted_answer, context)
        answer = formatted_answer
        while context.ask_for_human_input:
            feedback = self._ask(self._get_output_string(answer), context)
            if not _goes_on(context, feedback):
                break
            answer = context._invoke_loop()
        return answer

    async def handle_feedback_async(self, formatted_answer: Any, context: Any) -> Any:
        if context._is_training_mode():
            return await super().handle_feedback_async(formatted_answer, context)
        answer = formatted_answer
        while context.ask_for_human_input:
            feedback = await self._aask(self._get_output_string(answer), context)
            if not _goes_on(context, feedback):
                break
            answer = await context._ainvoke_loop()
        return answer


def _goes_on(context: Any, feedback: str) -> bool:
    """Whether the agent works on, with the feedback among its messages."""
    if not feedback.strip():
        context.ask_for_human_input = False
        return False
    context.messages.append(context._format_feedback_message(feedback))
    return True


@contextmanager
def reviewed_by(review: Review) -> Iterator[None]:
    """In the block results are reviewed by `review`, unless the user has set a provider."""
    if type(human_input.get_provider()) is not SyncHumanInputProvider:
        yield
        return
    token = human_input.set_provider(review)
    try:
        yield
    finally:
        human_input.reset_provider(token)
