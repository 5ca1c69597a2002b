"""Runs of flows that are no plain kickoffs, as a crash test begins them."""

from __future__ import annotations

import functools

from crewai_dbos import DBOSFlow
from flows.conversation import Desk
from flows.scenarios import SCENARIOS
from support.calling import Calling, streaming


def _stream() -> Calling:
    flow = DBOSFlow(flow_name="streamed", orig_flow=SCENARIOS["sequence"].flow)
    flow.stream = True
    return streaming(flow)


def _turn() -> Calling:
    flow = DBOSFlow(flow_name="turn", orig_flow=Desk)
    return Calling(flow, flow.handle_turn)


@functools.cache
def __getattr__(name: str) -> Calling:
    if name not in ("stream", "turn"):
        raise AttributeError(name)
    return {"stream": _stream, "turn": _turn}[name]()
