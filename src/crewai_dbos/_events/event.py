"""An event of a run, as readers see it and as it is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, cast

from crewai_dbos.errors import DefinitionError

Events = bool | Literal["tokens"]
"""Of a definition: whether its runs leave events, and whether the texts of answers as well."""

RUN_STARTED = "run.started"
RUN_RESUMED = "run.resumed"
RUN_PARKED = "run.parked"
RUN_SUSPENDED = "run.suspended"
RUN_STOPPED = "run.stopped"
RUN_CANCELLED = "run.cancelled"
RUN_ENDED = "run.ended"
TOKENS = "llm.tokens"

ENDS_OF_RUNS = (RUN_ENDED, RUN_CANCELLED, RUN_STOPPED)
"""After one of these the run goes on only if somebody resumes it."""

PLACES = ("crew", "flow", "agent", "task", "method")
CALLS = ("llm", "tool", "step", "memory", "knowledge", "mcp")

OF_KIND = {
    **{kind: (f"{kind}.started", f"{kind}.ended") for kind in (*PLACES, *CALLS)},
    "person": ("request.opened", "request.answered"),
}
"""By the kind of work or of a call: the types of the events in which it begins and ends."""

ABANDONED = {kind: f"{kind}.abandoned" for kind in (*PLACES, *CALLS)}
ABANDONED["person"] = "request.abandoned"

CLOSING = (*(end for _, end in OF_KIND.values()), *ABANDONED.values())
"""The types after which what has begun is not at work any more."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    Attributes:
        seq: Its number in the run. A reader that has seen it has seen every smaller one.
        run_id: The run.
        type: What happened: ``run.started``, ``task.ended``, ``llm.tokens``, ...
        path: Where: the name in the journal; "" for the run itself.
        at: When, in UTC.
        data: Facts by name: ``status``, ``error`` (a class), ``seconds``, ``tokens``, ``model``.
    """

    seq: int
    run_id: str
    type: str
    path: str
    at: datetime
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return {**vars(self), "at": self.at.isoformat(), "data": dict(self.data)}


@dataclass(frozen=True)
class Key:
    """What makes an event that event and no other of its run.

    Attributes:
        type: As of an `Event`.
        path: As of an `Event`.
        part: Tells apart what may happen several times in a place: the executions of a run, the
            pieces of an answer.
    """

    type: str
    path: str
    part: int = 0

    @property
    def id(self) -> str:
        """A text of one length: a path may be longer than what an index takes."""
        text = f"{self.path}\0{self.type}\0{self.part}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Fact:
    """An event that is to be written.

    Attributes:
        run_id: Of what run.
        key: Which it is.
        at_ms: When it happened, in milliseconds since 1970.
        data: As of an `Event`, plain JSON.
    """

    run_id: str
    key: Key
    at_ms: int
    data: Mapping[str, Any] = field(default_factory=dict)


def as_events(events: Any, redact: Any = None) -> Events:
    """What a user passed as ``events=``.

    Args:
        events: That.
        redact: What was passed as ``redact=``.

    Raises:
        DefinitionError: It can't mean anything, or does not go with `redact`.
    """
    if not (isinstance(events, bool) or events == "tokens"):
        raise DefinitionError(f"events is True, False or 'tokens', not {type(events).__name__}")
    if events == "tokens" and redact is not None:
        raise DefinitionError(
            "events='tokens' stores answers piece by piece, and redact is given whole texts: what "
            "it looks for may lie in two pieces. Use events=True, or leave redact out."
        )
    return cast("Events", events)
