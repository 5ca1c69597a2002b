"""What belongs to somebody else is changed by the table of patches, and by nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import crewai_dbos
from crewai_dbos import _patches
from crewai_dbos._patches import Patch
from support.foreign import assignments
from support.new import said_by
from support.patch_table import rendered

SOURCES = Path(crewai_dbos.__file__).parent
PAGE = Path(__file__).parents[1] / "ARCHITECTURE.md"


SETTING = ": GlobalParams.executor_id = executor_id"
"""What DBOS was configured with, and no code of it: a Worker gives itself an id."""


def named(patch: Patch) -> str:
    return f"{patch.owner} {patch.name}"


@pytest.mark.parametrize("patch", _patches.TABLE, ids=named)
def test_what_a_row_names_is_there(patch: Patch) -> None:
    assert callable(_patches.found(f"crewai_dbos.{patch.replacement}"))
    if not patch.owner.endswith("()") and patch.how != _patches.EVENT:
        assert hasattr(_patches.found(patch.owner), patch.name)


def test_no_row_stands_twice() -> None:
    assert len({(p.owner, p.name) for p in _patches.TABLE}) == len(_patches.TABLE)


def test_the_page_shows_the_table() -> None:
    assert rendered() in PAGE.read_text(), "python -m support.patch_table prints it"


def test_nothing_else_assigns_to_what_is_somebody_elses() -> None:
    found = [
        f"{path.relative_to(SOURCES)}:{place}"
        for path in sorted(SOURCES.rglob("*.py"))
        if path.name != "_patches.py"
        for place in assignments(path.read_text())
        if not place.endswith(SETTING)
    ]
    assert found == [], "Make it a row of _patches.TABLE"


PLANTED = {
    "an attribute of a class": "from threading import Thread\nThread.start = None",
    "of a class in a module": "import threading\nthreading.Thread.start = None",
    "of a module": "from crewai.mcp import tool_resolver\ntool_resolver.MCPClient = None",
    "of an object": (
        "from crewai.events.event_bus import crewai_event_bus\ncrewai_event_bus.__class__ = None"
    ),
    "by setattr": "from crewai import Crew\nsetattr(Crew, 'kickoff', None)",
    "past the metaclass": "from crewai import Crew\ntype.__setattr__(Crew, 'kickoff', None)",
    "in the namespace": "from crewai.mcp import tool_resolver\nvars(tool_resolver)['X'] = None",
    "by an update of it": "import queue\nvars(queue).update(Queue=None)",
    "deleted": "import queue\ndel queue.Queue.put",
    "by another name": "import queue\ndef f():\n    cls: object = queue.Queue\n    cls.put = None",
    "in a function": "def f():\n    from crewai import Task\n    Task.execute_sync = None",
    "one after the other": (
        "from crewai import Agent, Crew\n"
        "for cls, name in ((Agent, 'kickoff'), (Crew, 'kickoff')):\n"
        "    setattr(cls, name, None)"
    ),
    "through a module of ours": (
        "from crewai_dbos._dbos_seam.context import DBOSContext\nDBOSContext.close = None"
    ),
    "an event": "import sqlalchemy\nsqlalchemy.event.listen(sqlalchemy.Engine, 'connect', print)",
}


@pytest.mark.parametrize("source", PLANTED.values(), ids=PLANTED)
def test_an_assignment_elsewhere_is_found(source: str) -> None:
    assert len(assignments(source)) == 1


FREE = {
    "a class of ours": "class Ours: ...\nOurs.kind = 1",
    "one from a module of ours": (
        "from crewai_dbos.testing import EffectLog\nEffectLog.report = None"
    ),
    "an object that is passed on": "from crewai import Crew\ndef f(x: Crew):\n    x.name = None",
    "an attribute of an error": "import httpx\ndef f(error):\n    error.__traceback__ = None",
}


@pytest.mark.parametrize("source", FREE.values(), ids=FREE)
def test_what_is_ours_may_be_assigned_to(source: str) -> None:
    assert assignments(source) == []


CHANGED = """
from support import patched

patched.main({folder!r})
"""


@pytest.mark.crash
def test_a_run_has_changed_what_the_table_says_and_no_more(said: dict[str, str]) -> None:
    """Of what is called through variables, too: classes are compared with what they were."""
    printed = said[CHANGED].splitlines()
    changed = {(owner, name) for owner, name in json.loads(printed[-1])}
    moments = (
        _patches.DEFINITION,
        _patches.LAUNCH,
        _patches.WAIT,
        _patches.JOURNAL,
        _patches.AGENT,
        _patches.RUN,
        _patches.MCP,
        _patches.BUILD,
        _patches.CREW,
        _patches.THREADS,
        _patches.METHOD,
    )
    rows = [
        patch
        for patch in _patches.TABLE
        if patch.when in moments and patch.name != "__class__" and not patch.owner.endswith("()")
    ]
    expected = set()
    for patch in rows:
        owner = _patches.found(patch.owner)
        home = getattr(owner, "__module__", None)
        expected.add((f"{home}.{owner.__qualname__}" if home else owner.__name__, patch.name))
    derived = {p.name for p in rows if p.how == _patches.DERIVED}
    missing, more = expected - changed, changed - expected
    assert missing == set()
    assert {name for owner, name in more if owner.startswith("crewai.llm")} <= derived
    assert {(owner, name) for owner, name in more if not owner.startswith("crewai.llm")} == set()


APPLIED_AT_ONCE = """
import queue, sys, threading
from concurrent.futures import ThreadPoolExecutor
from crewai.llms.base_llm import BaseLLM
from crewai_dbos import _patches

class Early(BaseLLM):
    def call(self, *args, **kwargs): ...

def apply():
    start.wait()
    _patches.apply(_patches.THREADS)
    _patches.apply(_patches.METHOD)

sys.setswitchinterval(1e-6)
start = threading.Barrier(8)
with ThreadPoolExecutor(8) as pool:
    [each.result() for each in [pool.submit(apply) for _ in range(8)]]
_patches.apply(_patches.METHOD)

class Late(BaseLLM):
    def call(self, *args, **kwargs): ...

for function in (queue.Queue.put, threading.Thread.start, Early.call, Late.call):
    layers = [function]
    while hasattr(layers[-1], "__wrapped__"):
        layers.append(layers[-1].__wrapped__)
    print(sum("crewai_dbos" in layer.__code__.co_filename for layer in layers))
"""


WITHOUT_MCP = """
import sys
from crewai.flow.flow import Flow, start
from dbos import DBOS
from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow

class Letters(Flow):
    @start()
    def one(self):
        return "sent"

flow = DBOSFlow(flow_name="letters", orig_flow=Letters)
DBOS(config={{
    "name": "tests", "system_database_url": "sqlite:///{folder}/dbos.sqlite",
    "notification_listener_polling_interval_sec": 0.02,
}})
DBOS.launch()
assert flow.kickoff() == "sent"
DBOS.destroy()
print("mcp" in sys.modules)
"""


BUILT_AT_ONCE = """
import os, sys, threading
from concurrent.futures import ThreadPoolExecutor
import openai.types.chat
from crewai_dbos._objects.clients import build_response_models

def build():
    start.wait()
    build_response_models()

sys.setswitchinterval(1e-6)
ends = []
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        start = threading.Barrier(8)
        with ThreadPoolExecutor(8) as pool:
            built = [pool.submit(build) for _ in range(8)]
        os._exit(any(each.exception() for each in built))
    ends.append(os.waitpid(pid, 0)[1])
print(ends)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each program prints, in a process of its own: a patch stays for as long as that."""
    folder = tmp_path_factory.mktemp("patches")
    programs = {
        CHANGED: CHANGED.format(folder=str(folder)),
        APPLIED_AT_ONCE: APPLIED_AT_ONCE,
        WITHOUT_MCP: WITHOUT_MCP.format(folder=str(folder)),
        BUILT_AT_ONCE: BUILT_AT_ONCE,
    }
    told = said_by([*programs.values()], folder)
    for _, errors in told:
        assert "Traceback" not in errors, errors
    return {name: output for name, (output, _) in zip(programs, told, strict=True)}


@pytest.mark.crash
def test_threads_that_apply_a_patch_at_once_make_it_once(said: dict[str, str]) -> None:
    """Also in classes that derive from its owner, defined before and after."""
    assert said[APPLIED_AT_ONCE] == "1\n" * 4


@pytest.mark.crash
def test_a_run_without_mcp_servers_does_not_load_what_speaks_to_them(said: dict[str, str]) -> None:
    """crewAI does not either, and it takes a good part of a second."""
    assert said[WITHOUT_MCP].splitlines()[-1] == "False"


@pytest.mark.crash
def test_threads_that_come_first_together_find_the_classes_of_a_response_built(
    said: dict[str, str],
) -> None:
    """In processes that have not built them: before the lock most of these ended with an error."""
    assert said[BUILT_AT_ONCE] == f"{[0] * 10}\n"
