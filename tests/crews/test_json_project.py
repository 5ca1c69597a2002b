"""A crew in JSON files, as `crewai create crew` writes them, is durable as any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from crewai.project import load_crew
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSCrew
from crewai_dbos.testing import text
from support.names import unique
from support.serving import Serve

AGENT = {"role": "Writer", "goal": "Write about {topic}", "backstory": "Old.", "llm": "gpt-4o-mini"}
TASK = {"description": "About {topic}", "expected_output": "A line", "agent": "writer"}


def test_it_is_run_and_replayed(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda request: text("Otters."))
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "writer.jsonc").write_text(f"// who writes\n{json.dumps(AGENT)}")
    tasks = [{"name": name, **TASK} for name in ("draft", "final")]
    crew = {"name": "letters", "agents": ["writer"], "tasks": tasks, "inputs": {"topic": "otters"}}
    (tmp_path / "crew.jsonc").write_text(f"// the crew\n{json.dumps(crew)}")
    monkeypatch.chdir(tmp_path)
    letters = DBOSCrew(crew_name=unique("crew"), orig_crew=lambda: load_crew("crew.jsonc")[0])
    with SetWorkflowID(run_id := unique("run")):
        assert letters.kickoff({"topic": "otters"}).raw == "Otters."
    assert len(server.requests) == 2
    last = DBOS.list_workflow_steps(run_id)[-1]["function_id"]
    fork = DBOS.fork_workflow(run_id, last + 1).get_workflow_id()
    assert letters.retrieve(fork).get_result().raw == "Otters."
    assert len(server.requests) == 2
