"""What the processes of the crash test import: an agent of each provider."""

from __future__ import annotations

from crewai import Agent
from crewai.tools import tool

from crewai_dbos import DBOSAgent, StepConfig
from crewai_dbos.testing import report_effect
from providers.models import KILLED, PROVIDERS
from support.entries import EVERY


@tool
def search(query: str) -> str:
    """Search for something."""
    report_effect("search", query=query)
    return f"found {query}"


def _clerk(provider: str) -> DBOSAgent:
    llm = PROVIDERS[provider].build()
    agent = Agent(role="Clerk", goal="Work", backstory="Diligent.", llm=llm, tools=[search])
    return DBOSAgent(
        agent_name=f"crashing-{provider}", orig_agent=agent, tool_step_config=StepConfig()
    )


# To import an SDK takes seconds.
CLERKS = {provider: _clerk(provider) for provider in PROVIDERS if EVERY or provider in KILLED}


def find_out(provider: str) -> str:
    """One run."""
    return str(CLERKS[provider].kickoff("Find out.").raw)
