"""No key of a provider is left in the database or the log, whatever its server says."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from crewai import Agent
from dbos import SetWorkflowID

from crewai_dbos import DBOSAgent, StepConfig
from crewai_dbos._secrets.finding import secrets_in
from crewai_dbos.testing import error, text
from providers.conftest import Serve
from providers.models import KEY, PROVIDERS, SECRET
from providers.server import Asked, Reply
from secrecy.stored import everything_in
from support.names import unique

ONCE_MORE = StepConfig(retries_allowed=True, max_attempts=2, interval_seconds=0.01)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_keys_that_a_server_repeats(
    provider: str, serve: Serve, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []

    def script(asked: Asked) -> Reply:
        told.append(f"Incorrect key provided: {KEY} (with {SECRET})")
        return error(503 if len(told) == 1 else 401, message=told[-1])

    serve(provider, script)
    llm = PROVIDERS[provider].build()
    agent = DBOSAgent(
        agent_name=unique("told"),
        orig_agent=Agent(role="Clerk", goal="Work", backstory="Diligent.", llm=llm),
        secrets=[] if provider == "bedrock" else [SECRET],
        llm_step_config=ONCE_MORE,
    )
    with pytest.raises(Exception), SetWorkflowID(unique("told")):  # noqa: B017, PT011
        agent.kickoff("Hello.")
    assert len(told) == 2
    left = everything_in(folder)
    assert "Incorrect key provided: ***" in left
    ours = [record.getMessage() for record in caplog.records if record.name == "crewai_dbos"]
    for secret in (KEY, SECRET):
        assert secret not in left
        assert secret not in "\n".join(ours)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_they_are_found_without_a_walk_through_the_sdk(provider: str, serve: Serve) -> None:
    """An LLM of Bedrock holds the description of the whole service: 20,000 objects."""
    serve(provider, lambda asked: text("Hello."))
    llm = PROVIDERS[provider].build()
    llm.call("Hello.")
    seen: dict[int, object] = {}
    found = {secret.text for secret in secrets_in(llm, seen)}
    assert KEY in found
    assert (SECRET in found) == (provider == "bedrock")
    assert not [secret for secret in found if secret.isidentifier() and len(secret) < 16]
