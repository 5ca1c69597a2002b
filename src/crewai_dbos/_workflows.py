"""The workflows that DBOS knows of this package.

Two for all agents, under fixed names and with bodies that only delegate: DBOS hashes the source of
every registered workflow into the application version, and a run of another version is not
recovered. Defining an agent, or editing anything else in this package, changes no hash.
"""

from __future__ import annotations

from typing import Any

from dbos import DBOS, WorkflowSerializationFormat

from crewai_dbos import _names


@DBOS.workflow(name=_names.AGENT_WORKFLOW, serialization_type=WorkflowSerializationFormat.PORTABLE)
def run_agent(order: dict[str, Any]) -> Any:
    from crewai_dbos import _perform

    return _perform.run(order)


@DBOS.workflow(
    name=_names.AGENT_WORKFLOW_ASYNC, serialization_type=WorkflowSerializationFormat.PORTABLE
)
async def run_agent_async(order: dict[str, Any]) -> Any:
    from crewai_dbos import _perform

    return await _perform.arun(order)
