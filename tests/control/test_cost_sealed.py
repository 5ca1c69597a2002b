"""What an encrypted run costs can be read by those who can't read the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from crewai import Agent, Crew, Task

from crewai_dbos import DBOSCrew
from crewai_dbos.control import Control, Price
from crewai_dbos.encryption import EncryptedSerializer, generate_key
from crewai_dbos.testing import text
from support.launching import launched
from support.serving import Serve, serving


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, lambda _: text("one two three"))


def build() -> Crew:
    clerk = Agent(role="Clerk", goal="Write", backstory="Old.", llm="gpt-4o-mini")
    return Crew(agents=[clerk], tasks=[Task(description="Go.", expected_output="A", agent=clerk)])


def test_counts_and_models_are_in_the_clear(serve: Serve, tmp_path: Path) -> None:
    serve()
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    with launched(url, serializer=EncryptedSerializer({"a": generate_key()})):
        run = DBOSCrew(crew_name="sealed-cost", orig_crew=build).start()
        run.get_result()
    with Control(url, prices={"gpt-4o-mini": Price(0, 1)}) as control:
        found = control.cost_of(run.workflow_id)
    assert found.tokens.completion == 3
    assert found.tokens.prompt > 0
    assert found.usd == pytest.approx(3e-6)
