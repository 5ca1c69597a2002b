"""The calls of runs, as they are counted; without crewAI, for the test as well.

Every call has a key, which says where in which run it is; every attempt at one has a mark of its
own, which it returns. The mark that is in the database is that of the attempt that was recorded.
"""

from __future__ import annotations

import random
import re
import secrets
import time

from crewai_dbos.testing import (
    EffectLog,
    Message,
    Request,
    ToolCall,
    report_effect,
    text,
    tool_calls,
)

CALLS = 3
"""Calls of a tool for each piece of work."""

MARK = re.compile("mark-[0-9a-f]{12}")
_ORDER = re.compile(r"Call (\w+) (\d+) times for (\S+)\.(?:\s|$)")


def order(run: str, place: str, name: str = "work", calls: int = CALLS) -> str:
    """What an agent is told: the model reads of it what it has to ask for."""
    return f"Call {name} {calls} times for {run}/{place}."


def attempt(key: str) -> str:
    """A call of a tool, which takes a while; returns the mark of this attempt at it."""
    mark = _new_mark()
    report_effect("begun", key=key, mark=mark, at=time.monotonic())
    _work()
    report_effect("ended", key=key, mark=mark, at=time.monotonic())
    return mark


class Model:
    """What answers requests. Workers say who they are by the header of an OpenAI project."""

    def __init__(self, effects: EffectLog) -> None:
        self._effects = effects

    def __call__(self, request: Request) -> Message:
        name, calls, place = _ORDER.findall(_told(request))[-1]
        done, mark = len(request.tool_results), _new_mark()
        about = {"key": f"{place}/model/{done}", "mark": mark}
        about["pid"] = int(request.headers["openai-project"])
        self._effects.report("begun", **about, at=time.monotonic())
        _work()
        self._effects.report("ended", **about, at=time.monotonic())
        if done == int(calls):
            return text(f"Done: {mark}")
        return tool_calls(ToolCall(name, {"key": f"{place}/{done}", "asked": mark}))


def _told(request: Request) -> str:
    return "\n".join(str(each["content"]) for each in request.messages if each["role"] == "user")


def _work() -> None:
    time.sleep(random.uniform(0.05, 0.4))


def _new_mark() -> str:
    return f"mark-{secrets.token_hex(6)}"
