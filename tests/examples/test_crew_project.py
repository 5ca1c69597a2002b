"""`examples/crew_project`: a project of `crewai create crew` with a durable main.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from crewai_dbos.testing import Hang, ModelServer, Reply, Request, hang
from crewai_dbos.testing.crash import CrashTest
from examples.models import analyst
from examples.programs import start
from support.crashing import killed_in_chains
from support.databases import sqlite_here
from support.entries import how_many

pytestmark = pytest.mark.crash

RUN = "latest_ai_run"
INPUTS = {"inputs": {"topic": "AI LLMs", "current_year": "2025"}}
REPORT = """## 2020

OpenAI publishes GPT-3, with 175 billion parameters.

## 2022

OpenAI opens ChatGPT to the public in November.

## 2024

Anthropic publishes the Model Context Protocol in November."""


class SilentAnalyst:
    """As `analyst`, but silent when the report is first asked for."""

    def __init__(self) -> None:
        self.silence: Hang = hang()
        self.asked = 0

    def __call__(self, request: Request) -> Reply:
        if "Reporting Analyst" in request.system_text:
            self.asked += 1
            if self.asked == 1:
                return self.silence
        return analyst(request)


def test_killed_and_started_again(tmp_path: Path) -> None:
    model = SilentAnalyst()
    with ModelServer(model) as server:
        first = start(RUN, tmp_path, server.env)
        model.silence.wait_until_held(timeout=60)
        first.kill()
        assert first.wait().killed
        assert not (tmp_path / "report.md").exists()

        second = start(RUN, tmp_path, server.env)
        assert second.wait().code == 0, second.output()
        assert (tmp_path / "report.md").read_text() == REPORT
        assert len(server.requests) == 4, "the last one was cut off and made again"


@pytest.mark.some_entries
@sqlite_here("database_kind")
def test_crash_matrix(database_kind: str) -> None:
    with CrashTest(
        "examples.programs:latest_ai_crew",
        INPUTS,
        model=analyst,
        setup="examples.programs:set_up",
        left_behind="examples.programs:report",
        database=database_kind,
    ) as test:
        undisturbed = test.undisturbed
        assert undisturbed.ended["left behind"] == REPORT
        reads = [effect.fields["entry"] for effect in undisturbed.effects]
        assert len(reads) == len(set(reads)) == 2, "once for each of two searches"
        chosen = test.positions(how_many(3, 8) if database_kind == "sqlite" else 2, seed=3)
        verdicts = killed_in_chains(test, chosen)
    wrong = [str(verdict) for verdict in verdicts if not verdict.ok]
    assert not wrong, "\n".join(wrong)
