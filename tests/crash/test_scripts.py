"""The script answers, wherever the definition's LLMs were made to ask."""

from __future__ import annotations

import pytest

from crash.built_early import script, slow
from crewai_dbos.testing import text
from crewai_dbos.testing.crash import CrashTest, CrashTestError
from crews.scenarios import SCENARIOS

pytestmark = pytest.mark.crash


def test_an_llm_that_was_built_at_import_asks_the_script() -> None:
    """Of an agent whose name is no ASCII, by a function with a parameter called inputs."""
    with CrashTest("crash.built_early:write", {"inputs": ["tea", "rain"]}, model=script) as test:
        assert "tea and rain" in str(test.undisturbed.ended["answer"])
        during = [position for position in test.positions() if position.by_model]
        assert [position.entry for position in during] == ["agent:writer%2F作家#1/llm#1"]
        verdict = test.run(*during)
    assert verdict.ok, str(verdict)
    assert verdict.in_flight == ["agent:writer%2F作家#1/llm#1"]


def test_an_llm_that_the_script_can_not_answer_asks_nobody() -> None:
    target = "crash.built_early:of_another_protocol"
    refused = pytest.raises(CrashTestError, match=r"llm#1 asks 127\.0\.0\.1, in a protocol")
    with CrashTest(target, {"messages": "Hello."}, model=lambda _: text("Hi.")) as test, refused:
        test.positions()


def test_a_crew_that_remembers() -> None:
    """Requests about memories have the ids and times of those in them, other ones in each run."""
    scenario = SCENARIOS["memory"]
    target, inputs = "crews.definitions:memory", {"inputs": scenario.inputs}
    with CrashTest(target, inputs, model=scenario.script) as test:
        positions = [str(position) for position in test.positions()]
        of_writer = [p for p in test.positions() if "Writer#1/memory.save(" in p.entry]
        saved = [p for p in of_writer if "/memory.llm#2-unrecorded" in str(p)]
        again = [p for p in test.positions() if str(p).endswith(")#1-unrecorded")][:1]
        verdicts = list(test.run_all([*saved, *again]))
    assert len(verdicts) == 2, positions
    assert all(verdict.ok for verdict in verdicts), "\n".join(map(str, verdicts))


def test_a_call_that_is_abandoned_twice() -> None:
    """Killed just after the first time, it is made again, and abandoned again."""
    with CrashTest("crash.built_early:hasty", model=slow) as test:
        marks = [p for p in test.positions() if p.entry.endswith("/given_up#1")]
        assert len(marks) == 6
        verdict = test.run(next(p for p in marks if p.moment == "after"))
    assert verdict.ok, str(verdict)
    assert sum(name.endswith("/given_up#2") for name in verdict.observed.rows) == 1
