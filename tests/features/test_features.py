"""An agent behaves with us as without us, undisturbed and when it is replayed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from crewai.lite_agent_output import LiteAgentOutput
from dbos import SetWorkflowID

from crewai_dbos import DBOSAgent
from crewai_dbos.testing import ModelServer
from features.scenarios import SCENARIOS, Scenario, effects
from support.entries import EVERY
from support.launching import launched_in
from support.names import unique
from support.replays import check_forks, sent, starts_of

pytestmark = [pytest.mark.thorough, pytest.mark.some_entries]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with launched_in(tmp_path_factory.mktemp("features")):
        yield


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


def kinds_of_effects() -> Counter[str]:
    """How many effects of each kind there were."""
    return Counter(effect.split()[0] for effect in effects)


def alone(scenario: Scenario) -> tuple[Any, Counter[str], list[str]]:
    effects.clear()
    with ModelServer(scenario.script) as server:
        agent = scenario.build(server)
        answer = outcome(lambda: scenario.ask(agent))
        if agent.memory:
            agent.memory.drain_writes()
        return answer, sent(server), sorted(effects)


_shown: set[str] = set()
"""From which kinds of entries runs have been forked in this process."""


def starts(steps: Sequence[Any]) -> list[int]:
    """Where to fork a run: as one of a table, and the first one also before its first step."""
    is_first = not (EVERY or _shown)
    return [*([1] if is_first else []), *starts_of(steps, _shown)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_same_as_crewai_and_replayed(name: str, launched: None) -> None:
    scenario = SCENARIOS[name]
    expected, requests, done = alone(scenario)
    effects.clear()
    run_id = unique(name)
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

        did = kinds_of_effects()
        effects.clear()
        check_forks(
            run_id,
            server,
            lambda fork: outcome(agent.retrieve(fork).get_result),
            expected,
            did=did,
            again=kinds_of_effects,
            starting=starts,
            only_the_end=scenario.shared_state,
        )
