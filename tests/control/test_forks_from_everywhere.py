"""Each run of a scenario comes to the same, whatever place of it is made again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dbos import SetWorkflowID

from crewai_dbos import DBOSCrew, DBOSFlow
from crewai_dbos._control.dependence import Dependents
from crewai_dbos._control.recorded import Recorded
from crewai_dbos._dbos_seam.rows import recorded_rows
from crewai_dbos.control import Control
from crewai_dbos.testing import ModelServer
from crews import scenarios as crews
from crews.test_same_as_crewai import outcome as outcome_of_crew
from flows import scenarios as flows
from flows.test_same_as_crewai import outcome as outcome_of_flow
from support.databases import some_here
from support.entries import some
from support.launching import launched
from support.names import unique
from support.replays import HELD_BY, World, kinds, world_in

pytestmark = [pytest.mark.thorough, pytest.mark.some_entries]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url = f"sqlite:///{tmp_path_factory.mktemp('everywhere')}/dbos.sqlite"
    with launched(url):
        yield url


@pytest.fixture
def world(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> World:
    return world_in(tmp_path, monkeypatch)


_shown: set[str] = set()


def check(
    url: str,
    run_id: str,
    server: ModelServer,
    outcome: Callable[[str], Any],
    expected: Any,
    effects: Callable[[], Counter[str]],
) -> None:
    """Forks at places of new kinds come to the same, and do nothing that they have a record of."""
    recorded = Recorded(run_id, recorded_rows(run_id), None)
    before = len(server.requests)
    forks, lacking = {}, Counter[str]()
    with Control(url) as control:
        for name in some(recorded.names(), str, _shown):
            forks[name] = control.fork(run_id, at=name)
            dependents = Dependents(recorded)
            dependents.drop(name)
            lacking.update(recorded.by_name[entry].kind for entry in dependents.entries)
    for name, fork in forks.items():
        assert outcome(fork) == expected, name
    assert len(server.requests) - before <= lacking["llm"]
    for effect, times in effects().items():
        if HELD_BY.get(effect):
            assert times <= lacking[HELD_BY[effect]], effect


CREWS = [name for name, each in crews.SCENARIOS.items() if not each.shared_state]


@pytest.mark.parametrize("name", some_here(CREWS, CREWS[::3]))
def test_crews(name: str, url: str, world: World) -> None:
    scenario = crews.SCENARIOS[name]
    run_id = unique(name)
    with ModelServer(scenario.script) as server:
        world("ours", server)
        # One that is copied: forks are at work at once, and some crews write a file when made.
        crew = DBOSCrew(crew_name=run_id, orig_crew=scenario.build(), **scenario.options)
        with SetWorkflowID(run_id):
            expected = outcome_of_crew(lambda: crew.kickoff(inputs=scenario.inputs))
        log = world("forks", server)
        check(
            url,
            run_id,
            server,
            lambda fork: outcome_of_crew(crew.retrieve(fork).get_result),
            expected,
            Counter if scenario.racing else lambda: kinds(log),
        )


FLOWS = [name for name, each in flows.SCENARIOS.items() if not each.shared_state]


@pytest.mark.parametrize("name", some_here(FLOWS, FLOWS[::3]))
def test_flows(name: str, url: str, world: World) -> None:
    scenario = flows.SCENARIOS[name]
    run_id = unique(name)
    with ModelServer(scenario.script) as server:
        world("ours", server)
        flow = DBOSFlow(flow_name=run_id, orig_flow=scenario.flow)
        with SetWorkflowID(run_id):
            expected = outcome_of_flow(lambda: flow.kickoff(inputs=scenario.inputs))
        log = world("forks", server)
        check(
            url,
            run_id,
            server,
            lambda fork: outcome_of_flow(flow.retrieve(fork).get_result),
            expected,
            Counter if scenario.racing else lambda: kinds(log),
        )
