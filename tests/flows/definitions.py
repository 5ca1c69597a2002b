"""The scenarios as definitions that a process finds by name.

Each is built when it is asked for: some start threads, and a process that has some can't be forked.
"""

from __future__ import annotations

import functools

from crewai_dbos import DBOSFlow
from flows.scenarios import SCENARIOS, Long


def attribute(name: str) -> str:
    """The name of a scenario as that of a variable."""
    return name.replace(" ", "_")


_FLOWS = {
    **{attribute(name): scenario.flow for name, scenario in SCENARIOS.items()},
    "long": Long,
}


@functools.cache
def _built(name: str) -> DBOSFlow:
    return DBOSFlow(flow_name=name, orig_flow=_FLOWS[name])


def __getattr__(name: str) -> DBOSFlow:
    if name not in _FLOWS:
        raise AttributeError(name)
    return _built(name)
