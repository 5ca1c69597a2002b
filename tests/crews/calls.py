"""A run of a crew that is no plain kickoff, as a crash test begins it."""

from __future__ import annotations

import functools

from crewai import Crew

from crewai_dbos import DBOSCrew
from crews.scenarios import sequential
from support.calling import Calling, streaming


def _build() -> Crew:
    crew = sequential()
    crew.stream = True
    return crew


@functools.cache
def __getattr__(name: str) -> Calling:
    if name != "stream":
        raise AttributeError(name)
    return streaming(DBOSCrew(crew_name="streamed", orig_crew=_build))
