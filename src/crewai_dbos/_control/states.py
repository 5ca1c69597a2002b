"""How a run stands, as people see it: the one place that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from crewai_dbos import _command_lines
from crewai_dbos._control.run import State
from crewai_dbos._control.texts import SEALED
from crewai_dbos._control.workers import Fleet, having, what_it_needs
from crewai_dbos._dbos_seam.database import CANCELLED, DELAYED, ENQUEUED, PENDING
from crewai_dbos._dbos_seam.stored_runs import ERROR, GIVEN_UP, SUCCESS, StoredRun, is_late
from crewai_dbos._fleet.listing import Listed
from crewai_dbos._requests.reading import Outline
from crewai_dbos._requests.request import at
from crewai_dbos._stored import names
from crewai_dbos._stored.cancelled import said_in
from crewai_dbos._stored.sealing import Open
from crewai_dbos.errors import SealedError

STATUSES: dict[State, tuple[str, ...]] = {
    "queued": (ENQUEUED, DELAYED),
    "running": (PENDING,),
    "interrupted": (PENDING,),
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
    fleet: Fleet = Fleet(),  # noqa: B008  # it is frozen
) -> Standing:
    """How `run` stands.

    Args:
        run: Its row.
        asked: What it asks people, or has asked.
        newest: By application, the newest version.
        opened: Reads what is sealed.
        fleet: Who is there to go on with it.
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
    if run.status == PENDING and "waiting" in told:
        return Standing("stranded", _text(told["waiting"], opened, "its definition is missing"))
    latest = newest.get(run.application, newest.get(None))
    return _stranded(run, latest, fleet) or _alive(run, asked, latest, fleet)


def _cancelled(run: StoredRun, told: Mapping[str, Any], opened: Open) -> Standing:
    if "cancelled" in told:
        said = [_by_whom(told["cancelled"], opened)]
        if names.STOPPED_BEFORE in told:
            said.append(f"it had stopped: {_text(told[names.STOPPED_BEFORE], opened, '')}")
        return Standing("cancelled", "; ".join(filter(None, said)) or None)
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


def _stranded(run: StoredRun, latest: str | None, fleet: Fleet) -> Standing | None:
    if run.status == DELAYED:
        return None
    worker = fleet.worker_of(run) if run.status == PENDING else None
    if worker is not None and worker.is_alive:
        return None
    alive, needed = fleet.taking(run, run.version or latest), what_it_needs(run)
    able = having(alive, needed)
    is_old = run.version is not None and latest not in (None, run.version)
    if worker is not None and not able:
        return Standing(
            "stranded",
            f"its worker {_named(worker)} is gone, and {_nobody(run, needed, bool(alive))}. Start "
            f"one{_instead(run, latest) if is_old else ''}.",
        )
    if run.status == ENQUEUED and alive and not able:
        return Standing(
            "stranded",
            f"{_nobody(run, needed, True)}. Start one, with the module that builds it"
            f"{_instead(run, latest) if is_old else ''}.",
        )
    if not is_old or worker is not None or (run.status == ENQUEUED and able):
        return None
    # That an old process is still at it, as in a rolling deploy, the database says of workers only.
    return Standing(
        "stranded",
        f"it is of application version {run.version}, and {latest} is the newest: only a process "
        f"of {run.version} goes on with it. Start one{_instead(run, latest)}.",
    )


def _no_worker(run: StoredRun, latest: str | None, fleet: Fleet) -> str | None:
    """Who could take a queued run, where no worker does: the database knows of no other process."""
    needed = what_it_needs(run)
    if having(fleet.taking(run, run.version or latest), needed):
        return None
    if having(fleet.alive(run, run.version or latest), needed):
        return f"no worker that has it takes runs from the queue {run.queue!r}"
    what = "its workflow" if needed is None else f"the {needed[0]} {needed[1]!r}"
    return (
        f"no live worker has {what}. Start one ({_command_lines.worker()}), or any program that "
        "defines it"
    )


def _nobody(run: StoredRun, needed: tuple[str, str] | None, has_alive: bool) -> str:
    of_version = f" of version {run.version}" if run.version is not None else ""
    if not has_alive or needed is None:
        return f"no other worker{of_version} lives"
    return f"no worker{of_version} that lives has the {needed[0]} {needed[1]!r}"


def _instead(run: StoredRun, latest: str | None) -> str:
    return f", or move the run: {_command_lines.move(run.run_id, str(latest))}"


def _named(worker: Listed) -> str:
    """By its process, unless its id says that."""
    is_said = worker.executor_id.startswith(f"{worker.process}:")
    return worker.executor_id if is_said else f"{worker.executor_id} ({worker.process})"


_LAST_MS = int(datetime(9999, 1, 1, tzinfo=timezone.utc).timestamp() * 1000)
"""No run is delayed until after that, but one that waits for a person without a deadline."""


_UNSEEN = "its process is no worker, so whether it lives is not known; started again, it goes on"


def _alive(run: StoredRun, asked: Sequence[Outline], latest: str | None, fleet: Fleet) -> Standing:
    still = [each for each in asked if each.state == "open"]
    if run.status != ENQUEUED and still:
        return Standing("waiting", _for_whom(still))
    if run.status == PENDING:
        worker = fleet.worker_of(run)
        if worker is None:
            return Standing("running", _UNSEEN)
        if worker.is_alive:
            return Standing("running")
        return Standing("interrupted", f"its worker {_named(worker)} is gone; another goes on")
    if any(each.state in ("answered", "expired") for each in asked):
        return Standing("waking")
    if run.status != DELAYED:
        return Standing("queued", _no_worker(run, latest, fleet))
    if run.delay_ms is None:
        return Standing("queued")
    if run.delay_ms > _LAST_MS:
        return Standing(
            "waiting",
            "for an answer to a request that is not there any more: cancel it and resume it, and "
            "it asks anew",
        )
    return Standing("queued", f"begins at {_shown(at(run.delay_ms))}")


def _for_whom(asked: Sequence[Outline]) -> str:
    first = min(asked, key=lambda each: each.created_ms)
    whom = ", ".join(sorted({each.audience for each in asked if each.audience})) or "anybody"
    more = f", and {len(asked) - 1} more" if len(asked) > 1 else ""
    since = _shown(at(first.created_ms))
    return f"for {whom} since {since}: {first.kind} {first.request_id[:8]}{more}"


def _shown(when: datetime | None) -> str:
    return "" if when is None else f"{when:%Y-%m-%d %H:%M:%S} UTC"
