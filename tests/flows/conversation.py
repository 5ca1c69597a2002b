"""A conversation: a desk that answers, and takes orders."""

from __future__ import annotations

from typing import Any

from crewai.flow.conversational import ConversationConfig
from crewai.flow.flow import Flow, listen

from crewai_dbos.testing import Reply, Request, report_effect, structured, text
from flows.scenarios import say


@ConversationConfig(
    llm="openai/gpt-4o-mini",
    default_intents=["order", "converse"],
    intent_llm="openai/gpt-4o-mini",
)
class Desk(Flow):
    @listen("order")
    def take_order(self) -> str:
        report_effect("order", message=self.state.last_user_message)
        return say(f"Confirm {self.state.last_user_message}")


def replies(request: Request) -> Reply:
    """Of the one who sorts messages, and of the one who answers."""
    if request.schema_name == "FeedbackOutcome":
        latest = request.last_user_text.rpartition("Latest user message")[2]
        latest = latest or request.last_user_text
        return structured({"outcome": "order" if "two chairs" in latest else "converse"})
    said = [str(m["content"]) for m in request.messages if m["role"] == "user"]
    return text(f"<{len(said)}: {said[-1]}>")


def history(flow: Any) -> list[tuple[str, str]]:
    return [(message.role, str(message.content)) for message in flow.state.messages]
