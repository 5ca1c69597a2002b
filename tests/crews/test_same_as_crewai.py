"""A crew behaves with us as without us, undisturbed and when it is replayed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from crewai.crews.crew_output import CrewOutput
from dbos import SetWorkflowID

from crewai_dbos import DBOSCrew
from crewai_dbos.testing import ModelServer
from crews.scenarios import SCENARIOS, Scenario
from support.databases import in_turns
from support.names import unique
from support.replays import World, check_forks, done, kinds, sent

pytestmark = [pytest.mark.thorough, pytest.mark.some_entries]


def outcome(get: Callable[[], Any]) -> Any:
    """What a user gets of a run, or the error."""
    try:
        output = get()
    except Exception as error:
        return type(error), str(error)
    assert isinstance(output, CrewOutput)
    tasks = [
        (t.name, t.raw, t.pydantic, t.json_dict, t.agent, t.output_format, len(t.messages))
        for t in output.tasks_output
    ]
    return output.raw, output.pydantic, output.json_dict, tasks, output.token_usage


def kicked_off(crew: Any, how: str, inputs: dict[str, Any]) -> Any:
    if how == "kickoff":
        return outcome(lambda: crew.kickoff(inputs=inputs))
    return outcome(lambda: asyncio.run(crew.akickoff(inputs=inputs)))


def without_us(scenario: Scenario, how: str, world: World) -> tuple[Any, Counter[str], Any]:
    with ModelServer(scenario.script) as server:
        log = world("plain", server)
        crew = (scenario.plain or scenario.build)()
        return kicked_off(crew, how, scenario.inputs), sent(server), done(log)


_shown: set[str] = set()
"""The kinds of entries that forks of other scenarios began at."""


@pytest.mark.parametrize(("name", "how"), in_turns(SCENARIOS, ["kickoff", "akickoff"]))
def test_same_as_crewai_and_replayed(name: str, how: str, launched: None, world: World) -> None:
    scenario = SCENARIOS[name]
    expected, requests, effects = without_us(scenario, how, world)
    run_id = unique(name)
    with ModelServer(scenario.script) as server:
        log = world("ours", server)
        # A copy of the crew for each run, or a new one.
        source = scenario.build() if how == "akickoff" or scenario.plain else scenario.build
        crew = DBOSCrew(crew_name=run_id, orig_crew=source, **scenario.options)
        with SetWorkflowID(run_id):
            answer = kicked_off(crew, how, scenario.inputs)
        if scenario.better:
            expected, requests, effects = answer, sent(server), done(log)
            assert "already running" not in str(answer)
        assert answer == expected
        if scenario.racing:
            assert sum(sent(server).values()) == sum(requests.values())
        else:
            assert sent(server) == requests, "other requests reached the model than without us"
            assert done(log) == effects, "something else was done than without us"
        if len(answer) > 2:
            assert crew.usage_metrics == answer[-1]

        forks = world("forks", server)
        check_forks(
            run_id,
            server,
            lambda fork: outcome(crew.retrieve(fork).get_result),
            expected,
            did=kinds(log),
            again=Counter if scenario.racing else lambda: kinds(forks),
            only_the_end=scenario.shared_state,
            shown=_shown,
        )
