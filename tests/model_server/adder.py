"""An agent with a tool, in this process or in one of its own: ``adder.py base_url file``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "OTEL_SDK_DISABLED": "true",
    "CREWAI_TESTING": "true",
    "CREWAI_TRACING_ENABLED": "false",
}


def answer(base_url: str, role: str = "Adder", *, stream: bool = False) -> str:
    """What the agent says."""
    from crewai import LLM, Agent, Crew, Task
    from crewai.tools import tool

    @tool
    def add(a: int, b: int) -> str:
        """Add two numbers."""
        return str(a + b)

    llm = LLM(model="openai/gpt-4o-mini", base_url=base_url, api_key="test", stream=stream)
    agent = Agent(
        role=role,
        goal="add",
        backstory="patient",
        llm=llm,
        tools=[add],
        inject_date=True,
        date_format="%H:%M:%S",
    )
    task = Task(description="Add up.", expected_output="a sum", agent=agent)
    return str(Crew(agents=[agent], tasks=[task]).kickoff().raw)


if __name__ == "__main__":
    os.environ.update(QUIET)
    # Not to standard output, where crewAI's threads print.
    Path(sys.argv[2]).write_text(answer(sys.argv[1], stream=True))
