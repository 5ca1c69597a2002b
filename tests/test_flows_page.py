"""The programs of docs/flows.md run as they stand, and crewAI does what the page says of it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from crewai_dbos.testing import ModelServer, Reply, Request, text
from pages.blocks import blocks
from support.python import python

pytestmark = pytest.mark.crash

AFTER = """
for step in DBOS.list_workflow_steps("ticket-7"):
    fork = DBOS.fork_workflow("ticket-7", step["function_id"] + 1).get_workflow_id()
    print("again:", support.retrieve(fork).get_result(), step["function_name"])
for number in (1, 2, 3):
    assert chat.retrieve(f"chat/ann/{number}").get_result() == f"Reply {number}."
"""


def run(program: Path, env: dict[str, str]) -> list[str]:
    done = python(
        program,
        folder=program.parent,
        env={**os.environ, "HOME": str(program.parent), **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


CONVERSATION = ["Good morning.", "Where is my parcel?", "Thank you."]


def script(request: Request) -> Reply:
    if "complaint?" in request.last_user_text:
        return text("Yes." if "late" in request.last_user_text else "No.")
    if request.messages[-1]["content"] in CONVERSATION:
        return text(f"Reply {CONVERSATION.index(request.messages[-1]['content']) + 1}.")
    return text("Ulm is here." if "Ulm" in request.last_user_text else "Sorry.")


def test_the_blocks_run_one_after_the_other_as_one_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("\n".join([*blocks("docs/flows.md"), AFTER]))
    with ModelServer(script) as server:
        said = run(program, server.env)
    assert said.count("Sorry.") == 2, "kicked off, and retrieved"
    assert any(re.fullmatch(r"[0-9a-f-]{36} passed on SUCCESS", line) for line in said)
    assert "None" in said, "nothing has stopped the run"
    assert "[6, 12]" in said
    assert "counted 3" in said
    assert "2" in said

    again = [line for line in said if line.startswith("again: Sorry.")]
    names = [line.rpartition("/")[2] for line in again]
    assert len(names) == len([line for line in said if line.startswith("again:")])
    # Forked after the step, a run does not send again.
    assert said.count("sent: Sorry.") == 1 + names.index("step:send#1")
    assert [line for line in said if line.startswith("Reply")] == [
        "Reply 1.",
        "Reply 2.",
        "Reply 3. Reply 3.",
    ]
    turns = [r for r in server.requests if r.messages[-1]["content"] in CONVERSATION]
    assert len(turns[-1].messages) == len(turns[0].messages) + 4, "a turn has what was said before"

    asked = 2 + 1 + 2 + 1 + len(turns)
    forks = sum("llm#1" in later for at in range(len(names)) for later in names[at + 1 :])
    assert len(server.requests) == asked + forks


# What the page says of crewAI ---------------------------------------------------------------

CREWAI = '''
import glob, json, os, time
from crewai.events import crewai_event_bus
from crewai.flow.flow import Flow, and_, listen, router, start
from crewai.flow.persistence import SQLiteFlowPersistence, persist
from crewai.state.checkpoint_config import CheckpointConfig
from pydantic import BaseModel

fails, done = [True], []

class State(BaseModel):
    said: list[str] = []
    n: int = 0

def work(what):
    written()
    done.append(what)
    if fails:
        raise KeyError("crash")

def written():
    """Wait for the checkpoints, which handlers write on threads and in any order."""
    crewai_event_bus.flush()

class Sequence(Flow[State]):
    @start()
    def one(self):
        self.mine = 1
        self.state.said.append("one")
        return "one"
    @listen(one)
    def two(self):
        written()
        done.append("two")
        return "two"
    @listen(two)
    def three(self, given):
        work(f"three {given} {hasattr(self, 'mine')} {self.state.said}")

class Routed(Flow[State]):
    @start()
    def one(self):
        return "one"
    @router(one)
    def route(self):
        written()
        return "go"
    @listen("go")
    def then(self):
        work("then")

class Loop(Flow[State]):
    @start("again")
    def draft(self):
        written()
        self.state.n += 1
        if self.state.n == 2:
            work("draft 2")
        return "draft"
    @router(draft)
    def review(self):
        written()
        return "again" if self.state.n < 4 else "end"
    @listen("end")
    def last(self):
        done.append("last")

class Parallel(Flow[State]):
    @start()
    def quick(self):
        time.sleep(0.2)
        return "quick"
    @start()
    def slow(self):
        self.state.said.append("half")
        time.sleep(0.6)
        work("slow")

class Given(Flow[State]):
    @start()
    def one(self):
        return "one"
    @start()
    def two(self):
        time.sleep(0.2)
        return "two"
    @listen(one)
    def after_one(self, given):
        time.sleep(0.4)
        work(f"after one: {given}")

def failing(flow, **options):
    try:
        flow.kickoff(**options)
    except Exception as error:
        return type(error).__name__

def checkpoints():
    written()
    found = glob.glob(".checkpoints/**/*.json", recursive=True)
    return sorted(found, key=lambda path: os.stat(path).st_mtime_ns)

def resumed(flow):
    """What a kickoff from the newest checkpoint does."""
    before = set(checkpoints())
    fails.append(True)
    ended = CheckpointConfig(on_events=["method_execution_finished"])
    failing(flow(checkpoint=ended))
    newest = [path for path in checkpoints() if path not in before][-1]
    kept = json.load(open(newest))["entities"][0]["checkpoint_state"]["said"]
    fails.clear(); done.clear()
    error = failing(flow(), from_checkpoint=CheckpointConfig(restore_from=newest))
    return {"done": list(done), "error": error, "kept": kept}

found = {}
fails.clear()
Sequence(checkpoint=True).kickoff()
found["default"] = checkpoints()
for flow in (Sequence, Routed, Loop, Parallel, Given):
    found[flow.__name__] = resumed(flow)

saved = []
class Persistence(SQLiteFlowPersistence):
    def save_state(self, flow_uuid, method_name, state_data):
        saved.append([method_name, list(state_data.said)])
        super().save_state(flow_uuid, method_name, state_data)

@persist(Persistence("states.db"))
class Kept(Flow[State]):
    @start()
    def one(self):
        self.state.said.append("one")
    @listen(one)
    def two(self):
        done.append("two")
    @listen(two)
    def three(self):
        work(f"three {self.state.said}")

@persist(Persistence("states.db"))
class KeptSideBySide(Flow[State]):
    @start()
    def quick(self):
        time.sleep(0.2)
    @start()
    def slow(self):
        self.state.said.append("half")
        time.sleep(0.6)
        work("slow")

for flow in (Kept, KeptSideBySide):
    saved.clear(); fails.append(True)
    first = flow()
    failing(first)
    kept = list(saved)
    fails.clear(); done.clear()
    failing(flow(), inputs={"id": first.state.id})
    found[flow.__name__] = {"done": list(done), "kept": kept}
print("FOUND", json.dumps(found))
'''


@pytest.fixture(scope="module")
def crewai(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What flows of crewAI do after a failure in a method. A process: handlers stay registered."""
    program = tmp_path_factory.mktemp("crewai") / "program.py"
    program.write_text(CREWAI)
    said = run(program, {"CREWAI_TRACING_ENABLED": "false"})
    (line,) = [line for line in said if line.startswith("FOUND ")]
    found: dict[str, Any] = json.loads(line.removeprefix("FOUND "))
    return found


def test_checkpoint_true_alone_writes_nothing(crewai: dict[str, Any]) -> None:
    assert crewai["default"] == []


def test_from_a_checkpoint_ended_methods_are_skipped(crewai: dict[str, Any]) -> None:
    """Their attributes are gone, and what listens to one of them is given None."""
    assert crewai["Sequence"]["done"] == ["three None False ['one']"]
    assert crewai["Given"]["done"] == ["after one: two"]


def test_from_a_checkpoint_the_result_of_a_router_is_lost(crewai: dict[str, Any]) -> None:
    assert crewai["Routed"] == {"done": [], "error": None, "kept": []}
    assert "last" not in crewai["Loop"]["done"]


def test_a_checkpoint_may_hold_half_of_a_method(crewai: dict[str, Any]) -> None:
    assert crewai["Parallel"]["kept"] == ["half"]
    assert crewai["KeptSideBySide"]["kept"] == [["quick", ["half"]]]


def test_with_persist_all_methods_are_run_again(crewai: dict[str, Any]) -> None:
    assert crewai["Kept"]["done"] == ["two", "three ['one', 'one']"]
