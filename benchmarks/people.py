"""The agents and crews that are measured: alike on every side."""

from __future__ import annotations

from collections.abc import Sequence

from crewai import Agent, CheckpointConfig, Crew, Task
from crewai.tools import BaseTool

RESULT = "A line of what a tool found. " * 8


class LookUp(BaseTool):
    """A class and no ``@tool`` function: with one of these crewAI writes no checkpoint."""

    name: str = "look_up"
    description: str = "Look up a number."

    def _run(self, number: int) -> str:
        return f"{number}: {RESULT}"


def clerk() -> Agent:
    """A crewAI agent that looks things up."""
    return Agent(
        role="Clerk",
        goal="Look things up",
        backstory="You work in an archive.",
        llm="openai/gpt-4o-mini",
        tools=[LookUp()],
        max_iter=100,
        verbose=False,
    )


def crew(agent: Agent, tasks: Sequence[str], *, checkpoints: str | None = None) -> Crew:
    """A crew of one agent with these tasks, each given the outputs of those before it.

    Args:
        agent: Who does them.
        tasks: Their descriptions.
        checkpoints: Where crewAI puts its own checkpoints, one after every task.
    """
    config = None if checkpoints is None else CheckpointConfig(location=checkpoints)
    made = [
        Task(description=text, expected_output="A summary.", agent=agent, name=f"task-{number}")
        for number, text in enumerate(tasks)
    ]
    return Crew(agents=[agent], tasks=made, checkpoint=config, verbose=False)
