"""Conversations: each turn is a run, and begins with the state that the last one ended with."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from crewai.flow.flow import Flow
from crewai.types.streaming import StreamSession
from crewai.utilities.streaming import create_frame_generator, create_frame_streaming_state
from dbos import DBOS

from crewai_dbos._crewai_seam.flow import is_conversational, state_of, streaming_turn
from crewai_dbos._dbos_seam.context import detached
from crewai_dbos._dbos_seam.database import ALIVE
from crewai_dbos._dbos_seam.rows import recorded_rows
from crewai_dbos._flows.state.changes import classes
from crewai_dbos._flows.work_orders import FlowWorkOrder
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.entry import read_entry
from crewai_dbos._journal.scope import Scope
from crewai_dbos._objects import hooks_of_crews
from crewai_dbos._runs.definition import FlowDefinition
from crewai_dbos._stored import codec, names
from crewai_dbos.errors import UnstorableValueError

_PAGE = 20

STREAM = "stream"
"""What a turn has, as it is stored, beside the arguments of ``Flow.handle_turn``."""


@dataclass(frozen=True)
class Turn:
    """The next turn of a conversation.

    Attributes:
        run_id: Its workflow id.
        after: The run of the last turn that has ended; None if the conversation begins.
        state: What the conversation has come to.
    """

    run_id: str
    after: str | None
    state: Any


def arguments(
    flow: Flow[Any],
    called: str,
    message: str,
    session_id: str | None,
    intents: Sequence[str] | None,
    intent_llm: Any,
    others: Mapping[str, Any],
) -> dict[str, Any]:
    """The arguments of a turn, as they are stored.

    Args:
        flow: The `DBOSFlow` that was called.
        called: The method.
        message, session_id, intents, intent_llm: As of ``DBOSFlow.handle_turn``.
        others: What it was called with besides.

    Raises:
        ValueError: The flow is not conversational.
        TypeError: There are `others`.
    """
    if not is_conversational(flow):
        raise ValueError(f"DBOSFlow.{called}() is only available on conversational flows")
    if others:
        raise TypeError(f"{called} of a DBOSFlow takes no {', '.join(others)}")
    return {
        "message": message,
        "session_id": session_id or str(flow.state.id),
        "intents": None if intents is None else list(intents),
        "intent_llm": intent_llm,
    }


def next_turn(flow_name: str, session_id: str, known: tuple[type, ...]) -> Turn:
    """The turn that follows the last one, which is waited for if it is still at work.

    Args:
        flow_name: Whose conversation it is.
        session_id: Which one.
        known: Classes of its state.
    """
    prefix = names.session(flow_name, session_id)
    while (last := _last(prefix)) is not None and last.status in ALIVE:
        # Others may wait for it too, and be quicker with the next.
        with contextlib.suppress(Exception):
            DBOS.retrieve_workflow(last.workflow_id).get_result()
    number = int(last.workflow_id.removeprefix(prefix)) if last is not None else 0
    ended = _last(prefix, status="SUCCESS")
    state = None if ended is None else _state_after(ended.workflow_id, known)
    return Turn(f"{prefix}{number + 1}", None if ended is None else ended.workflow_id, state)


def live_state(flow: Flow[Any], definition: FlowDefinition, shows: str | None, turn: Turn) -> Any:
    """The state that a `DBOSFlow` shows, if the conversation goes on from it; else None.

    What the application has done to it since the last turn is a part of the conversation. With no
    turn before, a conversation begins, with a state that somebody may have filled.

    Args:
        flow: The `DBOSFlow`.
        definition: Its definition.
        shows: The run whose state it shows, if that of one.
        turn: The turn that is about to be taken.
    """
    if turn.after is None and shows is None:
        return _if_filled(flow, definition)
    return state_of(flow) if shows == turn.after is not None else None


def _if_filled(flow: Flow[Any], definition: FlowDefinition) -> Any:
    """The state of `flow`, which has not run, if somebody has put something into it."""
    known = classes(flow)
    with contextlib.suppress(UnstorableValueError), hooks_of_crews.of_run():
        ours, new, another = (
            _fields(each, known) for each in (flow, definition.build(), definition.build())
        )
        # What is drawn anew for each flow, as a time or an id, says nothing.
        if any(ours[name] != new.get(name) == another.get(name) for name in ours):
            return state_of(flow)
    return None


def take(flow: Flow[Any], turn: Mapping[str, Any]) -> Any:
    """Have `flow` take a turn. Returns its reply."""
    arguments = {name: value for name, value in turn.items() if name != STREAM}
    with streaming_turn(flow) if turn.get(STREAM) else nullcontext():
        return flow.handle_turn(**arguments)


def stream_of(take: Callable[[], Any]) -> StreamSession[Any]:
    """A stream that does `take` while it is iterated."""
    state = create_frame_streaming_state([], use_async=False)
    streams: list[StreamSession[Any]] = []
    streams.append(StreamSession(sync_iterator=create_frame_generator(state, take, streams)))
    return streams[0]


def record(flow: Flow[Any], scope: Scope) -> None:
    """A turn has ended: keep what the next one begins with."""
    known = classes(flow)
    state = scope.run(Call(names.SESSION, kind="state", known=known), lambda: state_of(flow))
    # As it is stored: what a turn that fails does to the object is not a part of it.
    _states_in(scope)[_conversation(scope, flow.state.id)] = codec.encode(state, known), known


def begins(order: FlowWorkOrder, scope: Scope) -> Any:
    """The state that `order` begins with; None for a new one."""
    if order.turn is None or order.state is not None:
        return order.state
    ended = _states_in(scope).get(_conversation(scope, order.turn["session_id"]))
    return None if ended is None else codec.decode(*ended)


def _states_in(scope: Scope) -> dict[Any, Any]:
    """By conversation, the states that turns in this workflow have ended with."""
    found: dict[Any, Any] = scope.kept.setdefault("sessions", {})
    return found


def _conversation(scope: Scope, session_id: str) -> tuple[str, str]:
    """One of the flow that works in `scope`: flows do not share sessions."""
    return scope.path.rpartition("#")[0], session_id


def _fields(flow: Flow[Any], known: tuple[type, ...]) -> dict[str, Any]:
    state = state_of(flow)
    fields = state if isinstance(state, dict) else vars(state)
    return {name: codec.encode(value, known) for name, value in fields.items() if name != "id"}


def _last(prefix: str, **options: Any) -> Any:
    for offset in itertools.count(0, _PAGE):
        found = detached(
            DBOS.list_workflows,
            workflow_id_prefix=prefix,
            name=[names.FLOW_WORKFLOW, names.FLOW_WORKFLOW_ASYNC],
            sort_desc=True,
            limit=_PAGE,
            offset=offset,
            load_input=False,
            load_output=False,
            **options,
        )
        # SQLite finds those of `Ann` for `ann`, too.
        for each in found:
            if each.workflow_id.startswith(prefix) and each.workflow_id[len(prefix) :].isdigit():
                return each
        if len(found) < _PAGE:
            return None
    raise AssertionError


def _state_after(run_id: str, known: tuple[type, ...]) -> Any:
    for row in recorded_rows(run_id):
        entry = read_entry(row)
        if entry is not None and entry.what == names.SESSION:
            return codec.decode(entry.payload()["result"], known)
    return None
