"""A flow behaves with us as without us, undisturbed and when it is replayed from any entry."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel

from crewai_dbos import DBOSFlow
from crewai_dbos.testing import EffectLog, ModelServer
from crewai_dbos.testing.effects import EFFECTS
from flows.scenarios import SCENARIOS, Scenario

_names = itertools.count()


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


def sent(server: ModelServer) -> Counter[str]:
    return Counter(request.fingerprint for request in server.requests)


def done(log: EffectLog) -> list[str]:
    return sorted(f"{effect.kind} {effect.fields}" for effect in log.read())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What a run meets: a model, a folder, and a log of what it does."""

    def enter(name: str, server: ModelServer) -> EffectLog:
        folder = tmp_path / name
        folder.mkdir()
        for key, value in server.env.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setenv(EFFECTS, str(folder / "effects"))
        return EffectLog(folder / "effects")

    return enter


@pytest.mark.parametrize("how", ["kickoff", "akickoff"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_same_as_crewai_and_replayed_from_every_entry(
    name: str, how: str, launched: None, world: Callable[..., Any]
) -> None:
    scenario = SCENARIOS[name]
    with ModelServer(scenario.script) as server:
        log = world("plain", server)
        alone = scenario.flow()
        expected = kicked_off(alone, how, scenario.inputs)
        requests, effects = sent(server), done(log)
    run_id = f"{name}-{next(_names)}"
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

        steps = DBOS.list_workflow_steps(run_id)
        log = world("forks", server)
        before = len(server.requests)
        starts = [1, *(step["function_id"] + 1 for step in steps)]
        if scenario.shared_state:
            starts = starts[-1:]
        forks = [DBOS.fork_workflow(run_id, start).get_workflow_id() for start in starts]
        for start, fork in zip(starts, forks, strict=True):
            assert outcome(flow.retrieve(fork).get_result) == expected, f"from {start}"
        allowed = sum(
            _kind(step) == "llm" and step["function_id"] >= start
            for step in steps
            for start in starts
        )
        assert len(server.requests) - before <= allowed


def _kind(step: Any) -> str:
    output = step["output"]
    return str(output.get("kind")) if isinstance(output, dict) else ""
