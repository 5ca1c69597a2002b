"""A stream that is read over a kill -9: nothing is missing, and nothing is there twice."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from crewai_dbos.control import Answer, Approve, Control, Event
from crewai_dbos.control import Request as Asked
from crewai_dbos.testing import ModelServer, Reply, Request, ToolCall, text, tool_calls
from crewai_dbos.testing.crash import CrashTest, Position
from crewai_dbos.testing.crash._program import RUN
from support.crashing import one_moment_each, survives
from support.databases import some_here
from support.entries import EVERY
from support.python import Program

pytestmark = pytest.mark.crash


def script(request: Request) -> Reply:
    if not request.tool_results:
        return tool_calls(ToolCall("look_up", {"what": request.last_user_text[:30]}))
    return text(f"{request.tool_results[0][1]}. " * 20)


def approving(_: Asked) -> Answer:
    return Approve()


@pytest.mark.parametrize(
    "database_url", some_here(["sqlite", "postgres"], ["postgres"]), indirect=True
)
def test_a_reader_goes_on_over_a_kill(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees the call that was cut short begin once, and end once."""
    with ModelServer(script) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)

        def process(dies: str) -> Program:
            code = f"from support.told import carry_out; carry_out({database_url!r}, {dies!r})"
            path = os.pathsep.join(entry for entry in sys.path if entry)
            return Program("-c", code, folder=tmp_path, env={**os.environ, "PYTHONPATH": path})

        first = process("yes")
        first.communicate(60)
        found: list[Event] = []

        def read() -> None:
            with Control(database_url) as control:
                found.extend(control.events(RUN, follow=True))

        reader = threading.Thread(target=read)
        reader.start()
        second = process("")
        _, errors = second.communicate(60)
        assert second.returncode == 0, errors
        reader.join(60)
    kinds = [event.type for event in found if event.type != "llm.tokens"]
    assert kinds.count("run.resumed") == 1
    assert kinds[-1] == "run.ended"
    cut = kinds.index("run.resumed")
    assert "tool.started" in kinds[:cut]
    once = Counter((event.type, event.path) for event in found if event.type != "llm.tokens")
    assert set(once.values()) == {1}
    assert Counter(kinds)["tool.started"] == Counter(kinds)["tool.ended"] == 2
    assert Counter(kinds)["llm.started"] == Counter(kinds)["llm.ended"] == 4


def around_a_request(test: CrashTest) -> list[Position]:
    """What else there is where a tool is approved, is as in "crew"."""
    if EVERY:
        return one_moment_each(test)
    every = test.positions()
    (first, *_) = [position.entry for position in every if "/approval:" in position.entry]
    return [p for p in every if p.entry == first and p.moment != "before"]


@pytest.mark.some_entries
@pytest.mark.parametrize(
    ("target", "database_kind"),
    some_here(
        product(["crew", "letters", "approved"], ["sqlite", "postgres"]),
        [("crew", "sqlite"), ("letters", "sqlite"), ("approved", "sqlite")],
    ),
    indirect=["database_kind"],
)
def test_whenever_it_is_killed(target: str, database_kind: str) -> None:
    choose, options = one_moment_each, dict[str, Any]()
    if target == "approved":
        choose, options = around_a_request, {"people": approving}
    survives(
        f"support.told:{target}",
        {},
        choose,
        model=script,
        left_behind="support.told:told",
        database=database_kind,
        **options,
    )
