"""Conversations: each turn is a run, and begins with the state that the last one ended with."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from crewai.flow.flow import Flow
from dbos import DBOS

from crewai_dbos._crewai_seam.flow import state_of
from crewai_dbos._dbos_seam import detached, recorded_rows
from crewai_dbos._flows.state.changes import classes
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.entry import read_entry
from crewai_dbos._journal.scope import Scope
from crewai_dbos._stored import codec, names


@dataclass(frozen=True)
class Turn:
    """The next turn of a conversation.

    Attributes:
        run_id: Its workflow id.
        state: What the conversation has come to; None if it begins.
    """

    run_id: str
    state: Any


def next_turn(flow_name: str, session_id: str, known: tuple[type, ...]) -> Turn:
    """The turn that follows the last one, which is waited for if it is still at work.

    Args:
        flow_name: Whose conversation it is.
        session_id: Which one.
        known: Classes of its state.
    """
    prefix = names.session(flow_name, session_id)
    last = _last(prefix)
    if last is not None and last.status in ("PENDING", "ENQUEUED"):
        with contextlib.suppress(Exception):
            DBOS.retrieve_workflow(last.workflow_id).get_result()
    number = int(last.workflow_id.removeprefix(prefix)) if last is not None else 0
    ended = _last(prefix, status="SUCCESS")
    state = None if ended is None else _state_after(ended.workflow_id, known)
    return Turn(f"{prefix}{number + 1}", state)


def record(flow: Flow[Any], scope: Scope) -> None:
    """A turn has ended: keep what the next one begins with."""
    call = Call(names.SESSION, kind="state", known=classes(flow))
    scope.run(call, lambda: state_of(flow))


def _last(prefix: str, **options: Any) -> Any:
    found = detached(
        DBOS.list_workflows,
        workflow_id_prefix=prefix,
        name=[names.FLOW_WORKFLOW, names.FLOW_WORKFLOW_ASYNC],
        sort_desc=True,
        limit=1,
        load_input=False,
        load_output=False,
        **options,
    )
    return next(iter(found), None)


def _state_after(run_id: str, known: tuple[type, ...]) -> Any:
    for row in recorded_rows(run_id):
        entry = read_entry(row)
        if entry is not None and entry.what == names.SESSION:
            return codec.decode(entry.payload()["result"], known)
    return None
