"""Killed anywhere, a run knows what it has used, and what its limit was raised to."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import pytest

from crewai_dbos.control import Answer, Approve, Control
from crewai_dbos.control import Request as Asked
from crewai_dbos.testing import ModelServer, Reply, Request, ToolCall, text, tool_calls
from crewai_dbos.testing.crash import CrashTest
from support.crashing import killed_in_chains, taking_turns
from support.databases import some_here, sqlite_here
from support.python import python

pytestmark = pytest.mark.crash

LIMITS = ["1", "0"]
"""Of the definition; 0 for that of the run."""


def people(request: Asked) -> Answer:
    assert request.kind == "budget"
    return Approve(arguments={"tokens": 1_000_000})


def script(request: Request) -> Reply:
    if not request.tool_results:
        return tool_calls(ToolCall("note", {"what": request.last_user_text[:20]}))
    return text(request.tool_results[-1][1])


@sqlite_here("database_kind")
def test_around_the_request_it_asks_once_and_goes_on_once(database_kind: str) -> None:
    target = "control.budget_jobs:asking"
    with CrashTest(target, {}, people=people, database=database_kind, model=script) as test:
        every = test.positions()
        asked = [p for p in every if "/budget#" in p.entry and p.moment != "before"]
        assert {position.moment for position in asked} >= {"asked", "parked"}
        others = [p for p in taking_turns(every) if "/budget#" not in p.entry]
        # Each process that goes on has to know the limit that was raised before.
        verdicts = killed_in_chains(test, [*asked, *others[-4:]])
        wrong = [str(verdict) for verdict in verdicts if not verdict.ok]
        assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("limit", "database_url"),
    some_here(product(LIMITS, ["sqlite", "postgres"]), [("1", "sqlite"), ("0", "postgres")]),
    indirect=["database_url"],
)
def test_a_restart_does_not_reset_what_is_used(
    limit: str, database_url: str, tmp_path: Path
) -> None:
    program = Path(__file__).with_name("budget_program.py")
    with ModelServer(script) as server:

        def run(what: str, limit: str = limit) -> str:
            environment = {**os.environ, **server.env, "DATABASE_URL": database_url, "LIMIT": limit}
            done = python(program, what, folder=tmp_path, env=environment)
            assert done.returncode == (9 if what == "begin" else 0), done.stderr
            return done.stdout

        run("begin")
        assert len(server.requests) == 1
        assert "stopped at 1 of crew:thrifty#1" in run("again")
        assert "stopped at 1 of crew:thrifty#1" in run("again")
        assert len(server.requests) == 1
        if limit == "1":  # a higher limit in the code
            assert "noted" in run("resume", str(10**9))
        else:
            assert "stopped at 1 of crew:thrifty#1" in run("resume", str(10**9))
            with Control(database_url) as control:
                control.raise_budget("run", tokens=10**9)
            assert "noted" in run("resume")
        assert len(server.requests) == 2
