"""What an encrypted run costs can be read by those who can't read the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from crewai import Agent, Crew, Task
from dbos import DBOS, SetWorkflowID

from crewai_dbos import Budget, DBOSCrew, People, SetBudget
from crewai_dbos.control import Approve, Control, Price
from crewai_dbos.encryption import EncryptedSerializer, generate_key
from crewai_dbos.errors import BudgetExceeded
from crewai_dbos.testing import text
from people.conftest import until
from support.launching import launched
from support.serving import Serve, serving


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, lambda _: text("one two three"))


def build(tasks: int = 1) -> Crew:
    clerk = Agent(role="Clerk", goal="Write", backstory="Old.", llm="gpt-4o-mini")
    jobs = [Task(description="Go.", expected_output="A", agent=clerk) for _ in range(tasks)]
    return Crew(agents=[clerk], tasks=jobs)


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


def test_a_budget_is_raised_without_the_key_and_answered_with_it(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve()
    url, key = f"sqlite:///{tmp_path}/dbos.sqlite", generate_key()
    serializer = EncryptedSerializer({"a": key})
    with (
        launched(url, serializer=serializer),
        Control(url) as outsider,
        Control(url, serializer=serializer) as insider,
    ):
        crew = DBOSCrew(
            crew_name="sealed-budget",
            orig_crew=lambda: build(3),
            budget=Budget(tokens=1),
            people=People(linger=0.05),
        )
        with SetWorkflowID("fails"), pytest.raises(BudgetExceeded):
            crew.kickoff()
        with pytest.raises(BudgetExceeded, match="has used") as stopped:
            crew.retrieve("fails").get_result()
        assert stopped.value.limit == 1
        outsider.raise_budget("fails", tokens=10**9)
        DBOS.resume_workflow("fails")
        crew.retrieve("fails").get_result()
        assert len(server.requests) == 3
        with SetWorkflowID("asks"), SetBudget(Budget(tokens=1, on_limit="ask")):
            run = crew.start()
        request = until(lambda: insider.requests(run_id="asks"))[0]
        insider.answer(request.request_id, Approve(arguments={"tokens": 10**9}))
        run.get_result()
        assert len(server.requests) == 6
