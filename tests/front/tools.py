"""A tool with arguments of several kinds. crewAI reads annotations only as they are made here."""

from typing import Any, Literal

from crewai.tools import tool

SENT: list[tuple[Any, ...]] = []


@tool("mail")
def mail(
    to: str, body: str, count: int = 1, how: Literal["low", "high"] = "low", safe: bool = False
) -> str:
    """Send it."""
    SENT.append((to, body, count, how, safe))
    return "sent"
