"""DBOS that is launched where an event loop runs, as in a notebook: it hands coroutines to that."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from crewai.flow.flow import Flow, start

from agent.helpers import clerk, wait_a_little, waits
from crewai_dbos import DBOSFlow, StepConfig
from crewai_dbos.testing import ModelServer
from support.launching import launched
from support.names import unique


@pytest.mark.parametrize("config", [None, StepConfig(timeout_seconds=60)], ids=repr)
def test_a_sync_kickoff_does_not_wait_for_the_loop_that_it_blocks(
    config: StepConfig | None, tmp_path: Path
) -> None:
    with ModelServer(waits) as server:

        class Asking(Flow[dict[str, Any]]):
            @start()
            def ask(self) -> str:
                return str(clerk(server, tools=[wait_a_little]).kickoff("Wait.").raw)

        flow = DBOSFlow(flow_name=unique("asking"), orig_flow=Asking, llm_step_config=config)

        async def cell() -> Any:
            with launched(f"sqlite:///{tmp_path}/dbos.sqlite"):
                return flow.kickoff()

        assert asyncio.run(cell()) == "waited for a"
