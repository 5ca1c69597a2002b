"""The events of a run as Server-Sent Events: a reader who was cut off goes on where it was."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator

from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response, StreamingResponse

from crewai_dbos._http.problems import HEADERS, Problem
from crewai_dbos.control import Control, Event

logger = logging.getLogger("crewai_dbos")

SILENCE = 15.0
"""Seconds without an event after which a comment is sent: proxies close what says nothing."""

MOST = 500
"""Streams in a process: each looks into the database five times a second."""

_streams: set[object] = set()

_GREATEST = 2**53

SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
}
"""Of one event of a stream; its data are the JSON of an `Event`."""


def after(last_event_id: str | None, given: int) -> int:
    """The number of the last event that a reader has.

    Args:
        last_event_id: The header that a browser sends when it goes on.
        given: What the query says, for the first time.

    Raises:
        Problem: The header holds no number of an event.
    """
    if last_event_id is None or last_event_id == "":
        return given
    number = int(last_event_id) if last_event_id.isascii() and last_event_id.isdigit() else -1
    if not 0 <= number <= _GREATEST:
        raise Problem(422, "Last-Event-ID is the number of an event.", "invalid")
    return number


def stream(control: Control, run_id: str, number: int) -> Response:
    """The events after `number`, until the run has ended.

    Raises:
        Problem: There are too many streams in this process.
    """
    if len(_streams) >= MOST:
        raise Problem(503, "Too many follow runs here now. Try again later.", "busy")
    headers = {**HEADERS, "X-Accel-Buffering": "no"}
    pieces = _with_signs_of_life(control.aevents(run_id, number, follow=True))
    return StreamingResponse(pieces, headers=headers, media_type="text/event-stream")


async def _with_signs_of_life(events: AsyncIterator[Event]) -> AsyncIterator[str]:
    following: asyncio.Task[Event] | None = None
    stream = object()
    _streams.add(stream)
    try:
        yield ": events\n\n"  # the reader sees that it is connected
        while True:
            if following is None:
                following = asyncio.ensure_future(_next(events))
            done, _ = await asyncio.wait([following], timeout=SILENCE)
            if not done:
                yield ": \n\n"
                continue
            try:
                event = following.result()
            except StopAsyncIteration:
                break
            except SQLAlchemyError as error:
                # Without the end, so that the reader comes back and goes on where it was.
                logger.warning("A stream of events ends: %s", type(error).__name__)
                return
            following = None
            yield written(event)
    finally:
        _streams.discard(stream)
        if following is not None:
            following.cancel()
            with contextlib.suppress(BaseException):
                await following
    # A browser asks again after an end, unless it is told that there is no more.
    yield "event: end\ndata: {}\n\n"


async def _next(events: AsyncIterator[Event]) -> Event:
    return await anext(events)


def written(event: Event) -> str:
    """An event of ours as one of the stream. JSON has no line breaks."""
    return f"id: {event.seq}\nevent: {event.type}\ndata: {json.dumps(event.as_json())}\n\n"
