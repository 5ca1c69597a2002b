"""An agent whose tool is not recorded, and reports nothing."""

from __future__ import annotations

from crewai import Agent
from crewai.tools import tool

from crewai_dbos import DBOSAgent


@tool
def send_letter(to: str) -> str:
    """Send a letter."""
    return f"receipt for {to}"


def _build() -> Agent:
    return Agent(
        role="Postman",
        goal="Send letters",
        backstory="Quick.",
        llm="openai/gpt-4o-mini",
        tools=[send_letter],
    )


agent = DBOSAgent(agent_name="silent-postman", orig_agent=_build)
