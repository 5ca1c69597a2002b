"""The workflows that DBOS knows of this package.

Two for all agents, two for all crews, two for all flows and one for batches of crews, under fixed
names and with bodies that only delegate: DBOS hashes the source of every registered workflow into
the application version, and a run of another version is not recovered. Defining one more agent, or
editing anything else in this package, changes no hash.
"""

from __future__ import annotations

from typing import Any

from dbos import DBOS, WorkflowSerializationFormat

from crewai_dbos import _names

_PORTABLE = WorkflowSerializationFormat.PORTABLE


@DBOS.workflow(name=_names.AGENT_WORKFLOW, serialization_type=_PORTABLE)
def run_agent(order: dict[str, Any]) -> Any:
    return _run("agent", order)


@DBOS.workflow(name=_names.AGENT_WORKFLOW_ASYNC, serialization_type=_PORTABLE)
async def run_agent_async(order: dict[str, Any]) -> Any:
    return await _arun("agent", order)


@DBOS.workflow(name=_names.CREW_WORKFLOW, serialization_type=_PORTABLE)
def run_crew(order: dict[str, Any]) -> Any:
    return _run("crew", order)


@DBOS.workflow(name=_names.CREW_WORKFLOW_ASYNC, serialization_type=_PORTABLE)
async def run_crew_async(order: dict[str, Any]) -> Any:
    return await _arun("crew", order)


@DBOS.workflow(name=_names.BATCH_WORKFLOW, serialization_type=_PORTABLE)
def run_batch(order: dict[str, Any]) -> Any:
    return _enqueue(order)


@DBOS.workflow(name=_names.FLOW_WORKFLOW, serialization_type=_PORTABLE)
def run_flow(order: dict[str, Any]) -> Any:
    return _run("flow", order)


@DBOS.workflow(name=_names.FLOW_WORKFLOW_ASYNC, serialization_type=_PORTABLE)
async def run_flow_async(order: dict[str, Any]) -> Any:
    return await _arun("flow", order)


# What starts a run imports this module, and what carries one out may start another.


def _run(noun: str, order: dict[str, Any]) -> Any:
    from crewai_dbos import _body

    return _body.run(_kind(noun), order)


async def _arun(noun: str, order: dict[str, Any]) -> Any:
    from crewai_dbos import _body

    return await _body.arun(_kind(noun), order)


def _enqueue(order: dict[str, Any]) -> Any:
    from crewai_dbos import _batch

    return _batch.enqueue(order)


def _kind(noun: str) -> Any:
    from crewai_dbos import _perform_agent, _perform_crew, _perform_flow

    kinds = (_perform_agent.KIND, _perform_crew.KIND, _perform_flow.KIND)
    return next(kind for kind in kinds if kind.registry.noun == noun)
