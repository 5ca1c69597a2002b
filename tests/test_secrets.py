"""A key that a server repeats in its error is not stored."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from crewai import LLM, Agent, Task
from dbos import DBOS

from crewai_dbos import DBOSAgent
from crewai_dbos._secrets.finding import of_environment
from crewai_dbos.testing import ModelServer, error, text
from support.launching import launched


def stored_texts(path: Path) -> str:
    with sqlite3.connect(path) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        rows = [connection.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in tables]
    return str(rows)


def test_keys_headers_and_the_environment_are_not_found_in_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VENDOR_TOKEN", "env-token-111111")
    secrets = ["sk-attribute-222222", "header-secret-333333", "env-token-111111"]
    message = f"Incorrect keys provided: {', '.join(secrets)}."
    with ModelServer(lambda request: error(401, message=message)) as server:
        llm = LLM(
            model="openai/gpt-4o-mini",
            api_key=secrets[0],
            base_url=server.base_url,
            default_headers={"Authorization": f"Bearer {secrets[1]}"},
        )
        orig = Agent(role="R", goal="G", backstory="B", llm=llm, max_retry_limit=0)
        agent = DBOSAgent(agent_name="secretive", orig_agent=orig)
        with launched(f"sqlite:///{tmp_path}/dbos.sqlite"):
            with pytest.raises(Exception, match=r"provided: \*\*\*, \*\*\*, \*\*\*\."):
                agent.kickoff("Hello.")
            assert DBOS.list_workflows()[0].status == "ERROR"
        stored = stored_texts(tmp_path / "dbos.sqlite")
    assert "Incorrect keys provided" in stored
    assert [secret for secret in secrets if secret in stored] == []


def test_an_error_of_the_users_own_code_is_stored_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "pg-password-1")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:url-password-2@localhost/db")

    def refuse(output: Any) -> Any:
        raise RuntimeError("no connection with pg-password-1, url-password-2 or sk-attribute-3")

    with ModelServer(lambda request: text("Hello.")) as server:
        llm = LLM(model="openai/gpt-4o-mini", api_key="sk-attribute-3", base_url=server.base_url)
        orig = Agent(role="R", goal="G", backstory="B", llm=llm, guardrail=refuse)
        agent = DBOSAgent(agent_name="guarded", orig_agent=orig)
        with (
            launched(f"sqlite:///{tmp_path}/dbos.sqlite"),
            pytest.raises(RuntimeError, match=r"no connection with \*\*\*, \*\*\* or \*\*\*"),
        ):
            agent.kickoff("Hello.")
    stored = stored_texts(tmp_path / "dbos.sqlite")
    assert "no connection" in stored
    kept = ("pg-password-1", "url-password-2", "sk-attribute-3")
    assert [secret for secret in kept if secret in stored] == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("OPENAI_API_KEY", True),
        ("DB_PASSWORD", True),
        ("X-Auth-Token", True),
        ("TOKENIZERS_PARALLELISM", False),
        ("KEYBOARD", False),
    ],
)
def test_a_secret_is_known_by_its_name(name: str, found: bool, monkeypatch: Any) -> None:
    monkeypatch.setenv(name, "a-value-of-some-length")
    assert ("a-value-of-some-length" in [found.text for found in of_environment()]) is found


def test_a_run_that_is_given_a_secret_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "correct-horse-battery")
    with ModelServer(lambda request: text("Hello.")) as server:
        llm = LLM(model="openai/gpt-4o-mini", api_key="sk-attribute-4", base_url=server.base_url)
        agent = DBOSAgent(
            agent_name="given_a_secret",
            orig_agent=Agent(role="R", goal="G", backstory="B", llm=llm),
        )
        task = Task(description="Use correct-horse-battery.", expected_output="A.", agent=agent)
        with launched(f"sqlite:///{tmp_path}/dbos.sqlite"):
            agent.kickoff("Hello.")
            assert "SHOP_PASSWORD" not in caplog.text
            agent.kickoff("Log in with correct-horse-battery.")
            agent.execute_task(task)
            agent.execute_task(task)
    said = [record.message for record in caplog.records if "SHOP_PASSWORD" in record.message]
    assert [(text.count("(arguments)"), text.count("(task)")) for text in said] == [(1, 0), (0, 1)]
    assert all("What a run of an agent is given" in text for text in said)
    assert "correct-horse-battery" not in caplog.text
