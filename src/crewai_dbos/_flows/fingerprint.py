"""What a flow is made of, stored with its run, and what of it has changed since.

What a method does may change. Which methods there are and what sets them going may not: recorded
work would end up in the wrong place, so the run stops.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from crewai_dbos._crewai_seam.flow import definition_of
from crewai_dbos._journal.scope import Scope
from crewai_dbos._runs import made_of
from crewai_dbos._runs.made_of import Unfit
from crewai_dbos._stored import names

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
    changes = list(_changes(recorded, now))
    if not changes:
        return
    begun = _begun(scope)
    unfit = [Unfit(told, (begun[method],)) for method, told in changes if method in begun]
    # What had not begun may begin now: another trigger is as good as a method that is new.
    may_end_otherwise = any(method in now and method not in begun for method, _ in changes)
    if may_end_otherwise and not unfit:
        unfit = _kept_for_the_next_turn(scope)
    told = [told for _, told in changes]
    made_of.go_on_or_stop(
        scope, f"flow {name!r}", now, told, unfit, may_end_otherwise=may_end_otherwise
    )


def _changes(before: Fingerprint, now: Fingerprint) -> Iterator[tuple[str, str]]:
    """Each method that has changed, and how."""
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            yield name, f"method {name!r} is {'new' if old is None else 'gone'}"
            continue
        for aspect, was in old.items():
            if was != new[aspect]:
                yield name, f"{aspect} of method {name!r} was {was!r} and is {new[aspect]!r}"


def _begun(scope: Scope) -> dict[str, str]:
    """By its name, the first execution of each method that something is recorded of."""
    found: dict[str, str] = {}
    for name, _ in scope.entries():
        if match := re.match(r"(method:([^/]+)#\d+)/", name):
            found.setdefault(unquote(match[2]), match[1])
    return found


def _kept_for_the_next_turn(scope: Scope) -> list[Unfit]:
    """The state after a turn of a conversation, in which another method may begin now."""
    kept = [name for name, entry in scope.entries() if entry.what == names.SESSION]
    return [Unfit(f"{name} is recorded to have come after it", (name,)) for name in kept[:1]]
