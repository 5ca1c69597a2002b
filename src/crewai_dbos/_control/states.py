"""How a run stands, as people see it: the one place that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from crewai_dbos import _command_lines
from crewai_dbos._control.run import State
from crewai_dbos._control.texts import SEALED, Open
from crewai_dbos._dbos_seam.database import CANCELLED, DELAYED, ENQUEUED, PENDING
from crewai_dbos._dbos_seam.stored_runs import ERROR, GIVEN_UP, SUCCESS, StoredRun, is_late
from crewai_dbos._requests.request import at
from crewai_dbos._requests.store import Outline
from crewai_dbos._stored.cancelled import said_in
from crewai_dbos.errors import SealedError

STATUSES: dict[State, tuple[str, ...]] = {
    "queued": (ENQUEUED, DELAYED),
    "running": (PENDING,),
    "waiting": (PENDING, DELAYED),
    "waking": (ENQUEUED, DELAYED),
    "done": (SUCCESS,),
    "failed": (ERROR,),
    "cancelled": (CANCELLED,),
    "stopped": (CANCELLED, GIVEN_UP),
    "stranded": (PENDING, ENQUEUED),
}
"""By state, the statuses that DBOS may have for a run that is in it."""


@dataclass(frozen=True)
class Standing:
    """How a run stands, and why, where the state alone does not say it."""

    state: State
    reason: str | None = None


def standing(
    run: StoredRun,
    asked: Sequence[Outline],
    newest: Mapping[str | None, str],
    opened: Open,
) -> Standing:
    """How `run` stands.

    Args:
        run: Its row.
        asked: What it asks people, or has asked.
        newest: By application, the newest version.
        opened: Reads what is sealed.
    """
    if run.status == SUCCESS:
        return Standing("done")
    if run.status == ERROR:
        return Standing("failed")
    told = said_in(run.attributes)
    if run.status == GIVEN_UP:
        return Standing(
            "stopped",
            f"DBOS has given it up after {run.attempts} attempts, in each of which its process "
            f"died. Find out why, then resume it: {_command_lines.resume(run.run_id)}",
        )
    if run.status == CANCELLED:
        return _cancelled(run, told, opened)
    return _stranded(run, told, newest, opened) or _alive(run, asked)


def _cancelled(run: StoredRun, told: Mapping[str, Any], opened: Open) -> Standing:
    if "cancelled" in told:
        return Standing("cancelled", _by_whom(told["cancelled"], opened))
    if "stopped" in told:
        return Standing("stopped", _text(told["stopped"], opened, str(told.get("error", ""))))
    if is_late(run.deadline_ms, run.ended_ms):
        return Standing("cancelled", f"its time was up at {_shown(at(run.deadline_ms))}")
    return Standing("cancelled", "with DBOS, which does not say by whom")


def _by_whom(stored: Any, opened: Open) -> str | None:
    try:
        said = opened(stored)
    except SealedError:
        return f"by whom and why: {SEALED}"
    if not isinstance(said, Mapping):
        return None
    by, reason = said.get("by"), said.get("reason")
    return ": ".join(part for part in (f"by {by}" if by else "", str(reason or "")) if part) or None


def _text(stored: Any, opened: Open, else_: str) -> str:
    try:
        return str(opened(stored))
    except SealedError:
        return f"{else_ or 'why'}: {SEALED}"


def _stranded(
    run: StoredRun, told: Mapping[str, Any], newest: Mapping[str | None, str], opened: Open
) -> Standing | None:
    if run.status == PENDING and "waiting" in told:
        return Standing("stranded", _text(told["waiting"], opened, "its definition is missing"))
    latest = newest.get(run.application, newest.get(None))
    if run.status == DELAYED or run.version is None or latest in (None, run.version):
        return None
    # That an old process is still at it, as in a rolling deploy, the database does not say.
    return Standing(
        "stranded",
        f"it is of application version {run.version}, and {latest} is the newest: only a process "
        f"of {run.version} goes on with it. Start one, or move the run: "
        f"crewai-dbos runs move {run.run_id} --version {latest}",
    )


def _alive(run: StoredRun, asked: Sequence[Outline]) -> Standing:
    still = [each for each in asked if each.state == "open"]
    if run.status != ENQUEUED and still:
        return Standing("waiting", _for_whom(still))
    if run.status == PENDING:
        return Standing("running")
    if any(each.state in ("answered", "expired") for each in asked):
        return Standing("waking")
    later = run.status == DELAYED and run.delay_ms is not None
    return Standing("queued", f"begins at {_shown(at(run.delay_ms))}" if later else None)


def _for_whom(asked: Sequence[Outline]) -> str:
    first = min(asked, key=lambda each: each.created_ms)
    whom = ", ".join(sorted({each.audience for each in asked if each.audience})) or "anybody"
    more = f", and {len(asked) - 1} more" if len(asked) > 1 else ""
    since = _shown(at(first.created_ms))
    return f"for {whom} since {since}: {first.kind} {first.request_id[:8]}{more}"


def _shown(when: datetime | None) -> str:
    return "" if when is None else f"{when:%Y-%m-%d %H:%M:%S} UTC"
