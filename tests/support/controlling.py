"""What the tests of stopping runs have in common: DBOS on each kind of database, and crews."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from crewai import Agent, Crew, Task

from crewai_dbos import DBOSCrew
from support.launching import launched
from support.names import unique


@contextmanager
def one_dbos(
    request: pytest.FixtureRequest, factory: pytest.TempPathFactory, **config: Any
) -> Iterator[str]:
    """One DBOS for the tests of a module, on the kind of database that `request` is for."""
    if request.param == "sqlite":
        url = f"sqlite:///{factory.mktemp('control')}/dbos.sqlite"
        with launched(url, **config):
            yield url
        return
    with request.getfixturevalue("databases").fresh() as url, launched(url, **config):
        yield url


def crew_of(*tools: Any, tasks: int = 1, at_once: bool = False) -> DBOSCrew:
    """A crew of one clerk, who does `tasks` pieces of work, all but the last `at_once`."""
    return DBOSCrew(crew_name=unique("crew"), orig_crew=lambda: ordinary(tools, tasks, at_once))


def ordinary(tools: Any = (), tasks: int = 1, at_once: bool = False) -> Crew:
    """The same without being durable."""
    clerk = Agent(role="Clerk", goal="Work", backstory="Old.", llm="gpt-4o-mini", tools=[*tools])
    return Crew(
        agents=[clerk],
        tasks=[
            Task(
                name=f"job {number}",
                description=f"Job {number} on {{topic}}.",
                expected_output="A line.",
                agent=clerk,
                async_execution=at_once and number < tasks,
            )
            for number in range(1, tasks + 1)
        ],
    )
