"""The doctor finds every known secret in a text, and its report shows none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from doctor.conftest import Run, report
from secrecy.forms import FORMS

HEAD = """
from crewai import LLM, Agent, Crew, Task
from crewai.mcp import MCPServerHTTP
from crewai.tools import BaseTool
from dbos import DBOS
from pydantic import PrivateAttr

from crewai_dbos import DBOSAgent, DBOSCrew, StepConfig

DBOS(config={"name": "app", "application_version": "1"})


class Search(BaseTool):
    name: str = "search"
    description: str = "Search."
    login: str = "tool-field-not-a-secret"
    password: str = "tool-password-01"
    _token: str = PrivateAttr("tool-token-00001")

    def _run(self) -> str:
        return ""


def agent(**fields):
    llm = LLM(
        model="openai/gpt-4o-mini",
        api_key="llm-key-00000001",
        default_headers={"X-Gate": "llm-header-00001"},
    )
    given = {"role": "R", "goal": "G", "backstory": "B", "llm": llm, **fields}
    return Agent(tools=[Search()], **given)
"""

SECRETS = {
    "llm-key-00000001": "api_key of the LLM 'gpt-4o-mini'",
    "llm-header-00001": "X-Gate of the LLM 'gpt-4o-mini'",
    "tool-password-01": "password of Search",
    "tool-token-00001": "_token of Search",
    "mcp-header-00001": "X-Shop of MCPServerHTTP",
    "embedder-key-001": "api_key of Agent",
    "given-secret-001": "secrets[0]",
    "variable-0000001": "SHOP_PAT",
}


@pytest.mark.parametrize("secret", SECRETS)
def test_it_is_found_in_a_text(
    secret: str,
    module: Callable[[str, str], None],
    doctor: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOP_PAT", "variable-0000001")
    module(
        "secretive",
        f"""{HEAD}
mcps = [MCPServerHTTP(url="https://mcp.test", headers={{"X-Shop": "mcp-header-00001"}})]
embedder = {{"provider": "openai", "config": {{"api_key": "embedder-key-001"}}}}
x = DBOSAgent(
    agent_name="secretive",
    orig_agent=agent(goal="Say {secret}.", mcps=mcps, embedder=embedder),
    tool_step_config=StepConfig(),
    secrets=["given-secret-001"],
)
""",
    )
    result = doctor("secretive:x", "--json")
    (finding,) = report(result)["findings"]
    assert finding["rule"] == "secret"
    assert f"goal of agent 'secretive' contains the value of {SECRETS[secret]}." in finding["what"]
    assert secret not in result.stdout + result.stderr


def test_no_form_of_a_secret_is_in_the_report(
    module: Callable[[str, str], None], doctor: Run
) -> None:
    written = [form("llm-key-00000001") for form in FORMS.values()]
    module(
        "reported",
        f"""{HEAD}
person = agent(role="llm-key-00000001, at https://me:unknown1@shop.test")
rest = {{"expected_output": "E", "agent": person, "output_file": "llm-key-00000001"}}
tasks = [
    Task(description="D", name=text, **rest)
    for text in {written!r}
]
x = Crew(agents=[person], tasks=tasks, name="tool-password-01")
""",
    )
    for arguments in (("reported:x",), ("reported:x", "--json")):
        result: Any = doctor(*arguments)
        assert result.exit_code == 1
        said = "".join(result.stdout.split())
        assert [text for text in written if "".join(text.split()) in said] == []
        hidden = ("llm-key-00000001", "tool-password-01", "unknown1")
        assert [secret for secret in hidden if secret in said] == []


def test_a_module_that_does_not_import(
    module: Callable[[str, str], None], doctor: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_PAT", "variable-0000001")
    module("broken", "raise OSError('no postgresql://app:unknown1@db, not with variable-0000001')")
    module(
        "refused",
        "from crewai_dbos import DefinitionError\n"
        "raise DefinitionError('No postgresql://app:unknown1@db. Not with variable-0000001')",
    )
    result = doctor("broken:x")
    assert result.exit_code == 2
    assert result.stderr.endswith("failed: OSError: no postgresql://app:***@db, not with ***\n")
    result = doctor("refused:x", "--json")
    assert result.exit_code == 1
    (finding,) = report(result)["findings"]
    assert finding["what"].startswith("No postgresql://app:***@db")
    assert finding["fix"] == "Not with ***"
