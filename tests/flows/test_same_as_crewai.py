"""A flow behaves with us as without us, undisturbed and when it is replayed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from dbos import SetWorkflowID
from pydantic import BaseModel

from crewai_dbos import DBOSFlow
from crewai_dbos.testing import ModelServer
from flows.scenarios import SCENARIOS, Scenario
from support.databases import in_turns
from support.names import unique
from support.replays import World, check_forks, done, kinds, sent

pytestmark = [pytest.mark.thorough, pytest.mark.some_entries]


def plain(value: Any) -> Any:
    """What a user sees of a value."""
    if isinstance(value, BaseModel):
        return {name: plain(item) for name, item in value.model_dump().items() if name != "id"}
    if hasattr(value, "raw"):
        return value.raw
    if hasattr(value, "feedback"):
        return value.feedback, value.outcome, plain(value.output)
    return value


def outcome(get: Callable[[], Any]) -> Any:
    """What a run returns, or the error."""
    try:
        return plain(get())
    except Exception as error:
        return type(error), str(error)


def state_of(flow: Any, scenario: Scenario) -> Any:
    state = flow.state if isinstance(flow.state, dict) else flow.state.model_dump()
    return {n: v for n, v in state.items() if n not in ("id", *scenario.unequal)}


def kicked_off(flow: Any, how: str, inputs: dict[str, Any]) -> Any:
    if how == "kickoff":
        return outcome(lambda: flow.kickoff(inputs=inputs))
    return outcome(lambda: asyncio.run(flow.akickoff(inputs=inputs)))


_shown: set[str] = set()
"""The kinds of entries that forks of other scenarios began at."""


@pytest.mark.parametrize(("name", "how"), in_turns(SCENARIOS, ["kickoff", "akickoff"]))
def test_same_as_crewai_and_replayed(name: str, how: str, launched: None, world: World) -> None:
    scenario = SCENARIOS[name]
    with ModelServer(scenario.script) as server:
        log = world("plain", server)
        alone = scenario.flow()
        expected = kicked_off(alone, how, scenario.inputs)
        requests, effects = sent(server), done(log)
    run_id = unique(name)
    with ModelServer(scenario.script) as server:
        log = world("ours", server)
        flow = DBOSFlow(flow_name=run_id, orig_flow=scenario.flow)
        with SetWorkflowID(run_id):
            answer = kicked_off(flow, how, scenario.inputs)
        if scenario.better:
            expected, alone = answer, flow
            requests, effects = sent(server), done(log)
        assert answer == expected
        assert state_of(flow, scenario) == state_of(alone, scenario)
        assert flow.flow_id == run_id
        if not scenario.racing:
            assert sent(server) == requests, "other requests reached the model than without us"
            assert done(log) == effects, "something else was done than without us"
        assert flow.usage_metrics == alone.usage_metrics

        forks = world("forks", server)
        check_forks(
            run_id,
            server,
            lambda fork: outcome(flow.retrieve(fork).get_result),
            expected,
            did=kinds(log),
            again=lambda: kinds(forks),
            only_the_end=scenario.shared_state,
            shown=_shown,
        )
