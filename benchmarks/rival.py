"""The worker in the environment of dbos-crewai, which has an older crewAI and nothing of ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from unittest import mock

import typing_extensions

from benchmarks.harness import saying, serve

PLAIN = "crewAI {crewai}"
RIVAL = "dbos-crewai {dbos-crewai}"


def main() -> None:
    say = saying()
    from crewai import Agent, Task
    from crewai.tools import tool
    from dbos import DBOS

    # Before Python 3.12 pydantic wants this one, and the package uses the other.
    with mock.patch("typing.TypedDict", typing_extensions.TypedDict):
        from dbos_crewai import DBOSAgent

    result = "A line of what a tool found. " * 8

    def look_up(number: int) -> str:
        """Look up a number."""
        return f"{number}: {result}"

    def clerk(function: Callable[..., str]) -> Agent:
        return Agent(
            role="Clerk",
            goal="Look things up",
            backstory="You work in an archive.",
            llm="openai/gpt-4o-mini",
            tools=[tool("look_up")(function)],
            max_iter=100,
            allow_delegation=False,
            verbose=False,
        )

    step = DBOS.step(name="look_up")(look_up)
    DBOS(
        config={
            "name": "bench",
            "system_database_url": "sqlite:///rival.sqlite",
            "log_level": "CRITICAL",
        }
    )
    durable = DBOSAgent(agent_name="clerk", orig_agent=clerk(step))
    plain = clerk(look_up)
    DBOS.launch()
    agents = {"plain": plain, "durable": durable}

    def run(side: str, description: str) -> float:
        agent = agents[side]
        task = Task(description=description, expected_output="A summary.", agent=agent)
        started = time.perf_counter()
        agent.execute_task(task)
        return time.perf_counter() - started

    def steps() -> int:
        (last,) = DBOS.list_workflows(limit=1, sort_desc=True)
        return len(DBOS.list_workflow_steps(last.workflow_id))

    say({name: version(name) for name in ("crewai", "dbos", "dbos-crewai")})
    serve(say, {"run": run, "steps": steps})


if __name__ == "__main__":
    main()
