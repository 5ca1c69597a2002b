"""An agent behaves with us as without us, undisturbed and when it is replayed from any entry."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crewai.lite_agent_output import LiteAgentOutput
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSAgent
from crewai_dbos.testing import ModelServer
from features.scenarios import SCENARIOS, Scenario, effects
from support.dbos_config import QUICK

_names = itertools.count()


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path: Path = tmp_path_factory.mktemp("features") / "dbos.sqlite"
    DBOS(config={"system_database_url": f"sqlite:///{path}", **QUICK})
    DBOS.launch()
    yield
    DBOS.destroy()


def outcome(get: Callable[[], Any]) -> Any:
    """What a user gets: the parts of an answer that don't change from run to run, or the error."""
    try:
        answer = get()
    except Exception as error:
        return type(error), str(error)
    if isinstance(answer, LiteAgentOutput):
        usage = answer.usage_metrics
        return answer.raw, answer.pydantic, usage, len(answer.messages), answer.plan
    return answer


def sent(server: ModelServer) -> Counter[str]:
    return Counter(request.fingerprint for request in server.requests)


def alone(scenario: Scenario) -> tuple[Any, Counter[str], list[str]]:
    effects.clear()
    with ModelServer(scenario.script) as server:
        agent = scenario.build(server)
        answer = outcome(lambda: scenario.ask(agent))
        if agent.memory:
            agent.memory.drain_writes()
        return answer, sent(server), sorted(effects)


@pytest.mark.parametrize("name", SCENARIOS)
def test_same_as_crewai_and_replayed_from_every_entry(name: str, launched: None) -> None:
    scenario = SCENARIOS[name]
    expected, requests, done = alone(scenario)
    effects.clear()
    run_id = f"{name}-{next(_names)}"
    with ModelServer(scenario.script) as server:
        agent = DBOSAgent(agent_name=run_id, orig_agent=scenario.build(server))
        with SetWorkflowID(run_id):
            answer = outcome(lambda: scenario.ask(agent))
        assert answer == expected
        made = sent(server)
        if scenario.random_prompt:
            assert sum(made.values()) == sum(requests.values())
        else:
            assert made == requests, "other requests reached the model than without us"
        assert sorted(effects) == done, "the tools did something else than without us"

        steps = DBOS.list_workflow_steps(run_id)
        before = len(server.requests)
        starts = [1, *(step["function_id"] + 1 for step in steps)]
        if scenario.shared_state:
            starts = starts[-1:]
        forks = [DBOS.fork_workflow(run_id, start).get_workflow_id() for start in starts]
        for start, fork in zip(starts, forks, strict=True):
            assert outcome(agent.retrieve(fork).get_result) == expected, f"from {start}"
        # A fork makes no request again that it has a record of.
        allowed = sum(
            _kind(step) == "llm" and step["function_id"] >= start
            for step in steps
            for start in starts
        )
        assert len(server.requests) - before <= allowed


def _kind(step: Any) -> str:
    output = step["output"]
    return str(output.get("kind")) if isinstance(output, dict) else ""
