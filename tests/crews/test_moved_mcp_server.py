"""A run goes on with an MCP server that a release has moved: its tools keep their names."""

from __future__ import annotations

import inspect
import shutil
import sys
from itertools import product
from pathlib import Path

import pytest
from crewai import Crew
from crewai.mcp import MCPServerStdio
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSCrew
from crewai_dbos.errors import RunCancelledError
from crewai_dbos.testing import (
    EffectLog,
    Reply,
    Request,
    ToolCall,
    report_effect,
    text,
    tool_calls,
)
from crewai_dbos.testing.effects import EFFECTS
from crews.scenarios import agent, task
from support.databases import some_here
from support.names import unique
from support.serving import Serve

pytestmark = pytest.mark.crash

QUICK, SDK = "quick_mcp_server.py", "mcp_server.py"
PLACES = ("after the first call", "in the second request")


@pytest.mark.parametrize(
    ("program", "where"), some_here(product((QUICK, SDK), PLACES), list(product((QUICK,), PLACES)))
)
def test_a_moved_server(
    program: str, where: str, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EFFECTS, str(tmp_path / "effects"))
    release = "rel1"
    for each in ("rel1", "rel2"):
        (tmp_path / each).mkdir()
        shutil.copy(Path(__file__).with_name(program), tmp_path / each / "server.py")
    effects_folder = str(Path(str(inspect.getsourcefile(report_effect))).parent)
    flags, folder = (["-I", "-S"], [effects_folder]) if program == QUICK else ([], [])
    asked: list[Request] = []
    name = unique("moved")

    def script(request: Request) -> Reply:
        asked.append(request)
        if len(asked) == (2 if where == "after the first call" else 3):
            DBOS.cancel_workflow(name)
        (tool,) = request.offered_tools
        if len(request.tool_results) < 2:
            return tool_calls(ToolCall(tool, {"item": f"otter {len(request.tool_results)}"}))
        return text(" and ".join(result for _, result in request.tool_results))

    def build() -> Crew:
        server = MCPServerStdio(
            command=sys.executable,
            args=[*flags, str(tmp_path / release / "server.py"), *folder],
            env={EFFECTS: str(tmp_path / "effects")},
        )
        clerk = agent("Clerk", mcps=[server])
        return Crew(agents=[clerk], tasks=[task("Ask", clerk)])

    serve(script)
    crew = DBOSCrew(crew_name=name, orig_crew=build)
    with SetWorkflowID(name), pytest.raises(RunCancelledError):
        crew.kickoff()
    release = "rel2"
    found = DBOS.resume_workflow(name).get_result()
    assert crew.retrieve(name).get_result().raw == "otter 0 cost 7 and otter 1 cost 7", found
    effects = EffectLog(tmp_path / "effects").read()
    assert [e.fields["item"] for e in effects if e.kind == "price"] == ["otter 0", "otter 1"]
    assert len({request.offered_tools[0] for request in asked}) == 1
