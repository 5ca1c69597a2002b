"""A crew whose tool is a plain function, and no DBOS step."""

from __future__ import annotations

from crewai import Crew, Task

from crash.application import undecorated
from crewai_dbos import DBOSCrew


def _crew() -> Crew:
    postman = undecorated()
    send = Task(description="Write to Ann.", expected_output="The receipt.", agent=postman)
    return Crew(agents=[postman], tasks=[send])


crew = DBOSCrew(crew_name="plain", orig_crew=_crew)
