"""The workflows that DBOS knows of this package.

Two for all agents, two for all crews, two for all flows and one for batches of crews, under fixed
names and with bodies that only delegate: DBOS hashes the source of every registered workflow into
the application version, and a run of another version is not recovered. Defining one more agent, or
editing anything else in this package, changes no hash.
"""

from __future__ import annotations

from typing import Any

from dbos import DBOS, WorkflowSerializationFormat

from crewai_dbos._stored import names

_PORTABLE = WorkflowSerializationFormat.PORTABLE


@DBOS.workflow(name=names.AGENT_WORKFLOW, serialization_type=_PORTABLE)
def run_agent(order: dict[str, Any]) -> Any:
    return _run("agent", order)


@DBOS.workflow(name=names.AGENT_WORKFLOW_ASYNC, serialization_type=_PORTABLE)
async def run_agent_async(order: dict[str, Any]) -> Any:
    return await _arun("agent", order)


@DBOS.workflow(name=names.CREW_WORKFLOW, serialization_type=_PORTABLE)
def run_crew(order: dict[str, Any]) -> Any:
    return _run("crew", order)


@DBOS.workflow(name=names.CREW_WORKFLOW_ASYNC, serialization_type=_PORTABLE)
async def run_crew_async(order: dict[str, Any]) -> Any:
    return await _arun("crew", order)


@DBOS.workflow(name=names.BATCH_WORKFLOW, serialization_type=_PORTABLE)
def run_batch(order: dict[str, Any]) -> Any:
    return _enqueue(order)


@DBOS.workflow(name=names.FLOW_WORKFLOW, serialization_type=_PORTABLE)
def run_flow(order: dict[str, Any]) -> Any:
    return _run("flow", order)


@DBOS.workflow(name=names.FLOW_WORKFLOW_ASYNC, serialization_type=_PORTABLE)
async def run_flow_async(order: dict[str, Any]) -> Any:
    return await _arun("flow", order)


# DBOS has to know the workflows early; what carries them out imports crewAI, which takes seconds.


def _run(noun: str, order: dict[str, Any]) -> Any:
    from crewai_dbos._runs import body

    return body.run(noun, order)


async def _arun(noun: str, order: dict[str, Any]) -> Any:
    from crewai_dbos._runs import body

    return await body.arun(noun, order)


def _enqueue(order: dict[str, Any]) -> Any:
    from crewai_dbos._runs import queues

    return queues.enqueue(order, run_crew)
