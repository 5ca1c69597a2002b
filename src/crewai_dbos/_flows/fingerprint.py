"""What a flow is made of, stored with its run, and what of it has changed since.

What a method does may change. Which methods there are and what sets them going may not: recorded
work would end up in the wrong place, so the run stops.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from crewai_dbos import _command_lines
from crewai_dbos._crewai_seam.flow import definition_of
from crewai_dbos._journal.scope import Scope
from crewai_dbos._runs import made_of
from crewai_dbos.errors import DriftError

Fingerprint = dict[str, dict[str, Any]]


def of_flow(flow: Any) -> Fingerprint:
    """What sets each method of `flow` going, as plain JSON."""
    return {
        name: {
            "start": method.start,
            "listen": method.listen,
            "router": bool(method.router),
            "feedback": method.human_feedback is not None,
        }
        for name, method in definition_of(flow).methods.items()
    }


def check(name: str, flow: Any, scope: Scope) -> None:
    """Stop the run if its flow is made up otherwise than when it began."""
    now = of_flow(flow)
    recorded = made_of.recorded(scope, now)
    if recorded == now:
        return
    forked, every = made_of.is_fork(scope), {*recorded, *now}
    changes = list(_changes(recorded, now, _begun(scope) if forked else every))
    if changes:
        scope.fail(
            DriftError(
                f"Run {scope.run_id}: the flow {name!r} is not the one that the run began with: "
                f"{'; '.join(changes)}. Put the code back and resume the "
                f"run ({_command_lines.resume(scope.run_id)}), or fork it from a step before "
                "that method."
            )
        )
    if forked and any(_changes(recorded, now, every)):
        made_of.note(scope, now)


def _changes(before: Fingerprint, now: Fingerprint, relevant: set[str]) -> Iterator[str]:
    for name in sorted(relevant):
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            yield f"method {name!r} is {'new' if old is None else 'gone'}"
            continue
        for aspect, was in old.items():
            if was != new[aspect]:
                yield f"{aspect} of method {name!r} was {was!r} and is {new[aspect]!r}"


def _begun(scope: Scope) -> set[str]:
    """The methods that something is recorded of."""
    inside = [name for name, _ in scope.entries()]
    found = (re.match(r"method:([^/]+)#\d+", name) for name in inside)
    return {match[1] for match in found if match}
