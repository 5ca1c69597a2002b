"""What is private in crewAI and in DBOS is used in one room each, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import crewai_dbos
from support.private_names import Use, uses

ROOT = Path(crewai_dbos.__file__).parent

ROOMS = {"crewai": "_crewai_seam/", "dbos": "_dbos_seam/"}
"""By the library, where its private names stand."""

TABLE = "_patches.py"
"""Says what is replaced, private or not."""

OURS = {
    ("doctor/_subject.py", "_definition"): "an attribute of DBOSAgent and of DBOSCrew",
    ("_objects/single_attempt.py", "_retry"): "of a client of google-genai",
}
"""Names of ours or of an SDK that a library has as well, by the module that uses them."""


def modules() -> Iterator[str]:
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith((*ROOMS.values(), TABLE)):
            yield name


def shown(module: str, found: list[Use]) -> list[str]:
    return [f"{module}:{use.line}: {use.code}" for use in found if (module, use.name) not in OURS]


@pytest.mark.parametrize("library", ROOMS)
def test_what_is_private_in_a_library_is_used_in_its_room_alone(library: str) -> None:
    found = [
        line
        for module in modules()
        for line in shown(module, uses((ROOT / module).read_text(), library))
    ]
    assert found == [], f"Move these to src/crewai_dbos/{ROOMS[library]}"


@pytest.mark.parametrize("library", ROOMS)
def test_the_rooms_are_in_use(library: str) -> None:
    paths = [p for p in ROOT.rglob("*.py") if p.relative_to(ROOT).as_posix() == ROOMS[library]]
    paths += (ROOT / ROOMS[library]).rglob("*.py")
    assert any(uses(path.read_text(), library) for path in paths)


def test_names_of_ours_that_are_excused_are_still_there() -> None:
    for module, name in OURS:
        source = (ROOT / module).read_text()
        assert name in {use.name for library in ROOMS for use in uses(source, library)}


PLANTED = {
    "a read": "def f(flow):\n    return flow._state",
    "a write": "def f(agent):\n    agent._rpm_controller = None",
    "a name in a string": 'def f(llm):\n    return getattr(llm, "_token_usage")',
    "a key": 'def f(private):\n    private["_token_usage"] = {}',
    "a keyword": "def f(fields):\n    fields.update(_kickoff_event_id=None)",
    "a path": 'PATCHED = "crewai.task:Task._execute_task_async"',
    "a name made of two": 'def f(agent, what):\n    return getattr(agent, f"_original_{what}")',
    "an import of a name": "from crewai.llms.retry import _active_llm_rate_limit_retry",
    "an import of a module": "from crewai.flow.runtime._actions import resolve_action",
    "a module": "import crewai.flow.dsl._listen",
    "what an override sets": (
        "class _Run:\n"
        "    def kickoff(self):\n"
        "        self._input_history = []\n"
        "        return super().kickoff()"
    ),
    "a method that it does not override": (
        "class _Run:\n"
        "    def kickoff(self):\n"
        "        self._drain_memory_writes()\n"
        "        return super().kickoff()"
    ),
    "what a subclass reads": (
        "from crewai import Flow\n"
        "class Ours(Flow):\n"
        "    def kickoff(self):\n"
        "        return self._is_conversational_enabled()"
    ),
    "an override, called from elsewhere": (
        "class _Run:\n"
        "    def _track_token_usage_internal(self, usage):\n"
        "        super()._track_token_usage_internal(usage)\n"
        "def f(llm):\n"
        "    llm._track_token_usage_internal({})"
    ),
}


@pytest.mark.parametrize("source", PLANTED.values(), ids=PLANTED)
def test_a_private_name_elsewhere_is_found(source: str) -> None:
    [found] = {use.line for use in uses(source, "crewai")}
    assert found


def test_a_private_name_of_dbos_elsewhere_is_found() -> None:
    source = "from dbos._sys_db import SystemDatabase\ndef f(dbos):\n    return dbos._sys_db"
    assert {use.line for use in uses(source, "dbos")} == {1, 3}


FREE = {
    "an override": (
        "class _Run:\n"
        "    def _execute_method(self, *args):\n"
        "        return super()._execute_method(*args)"
    ),
    "a field of ours": (
        "class Ours:\n"
        "    def __init__(self):\n"
        "        self._state = 1\n"
        "    def get(self):\n"
        "        return self._state"
    ),
    "a module of the standard library": 'PASSED = ("_thread", "threading")',
    "an import from our own package": "from crewai_dbos._runs import body",
    "a sentence": 'WHY = "The attribute _state is of the engine."',
}


@pytest.mark.parametrize("source", FREE.values(), ids=FREE)
def test_what_is_ours_is_left_alone(source: str) -> None:
    assert uses(source, "crewai") == []
