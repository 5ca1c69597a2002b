"""The scenarios as definitions that a process finds by name.

Each is built when it is asked for: a crew with a limit of requests or a memory starts threads, and
a process that has some can't be forked.
"""

from __future__ import annotations

import functools

from crewai_dbos import DBOSCrew
from crews.scenarios import SCENARIOS


def attribute(name: str) -> str:
    """The name of a scenario as that of a variable."""
    return name.replace(" ", "_").replace(",", "")


_NAMES = {attribute(name): name for name in SCENARIOS}


@functools.cache
def _built(name: str) -> DBOSCrew:
    scenario = SCENARIOS[name]
    source = scenario.build() if scenario.plain else scenario.build
    return DBOSCrew(crew_name=name, orig_crew=source, **scenario.options)


def __getattr__(name: str) -> DBOSCrew:
    if name not in _NAMES:
        raise AttributeError(name)
    return _built(_NAMES[name])
