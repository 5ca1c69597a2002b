"""Runs a flow with a crew, and prints what that has changed of others' classes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

OTHERS = {
    *("asyncio", "concurrent", "contextlib", "contextvars", "functools", "multiprocessing"),
    *("queue", "threading", "crewai", "dbos", "httpx", "openai", "pydantic", "sqlalchemy"),
}
CODE = (FunctionType, classmethod, staticmethod, property, type)


def code() -> dict[tuple[str, str], Any]:
    """What classes and modules of other packages do, by the owner and the name."""
    found: dict[tuple[str, str], Any] = {}
    for owner, namespace in _owners():
        for name, value in namespace.items():
            if isinstance(value, CODE) and "crewai_dbos" not in name:
                found[owner, name] = value
    return found


def _owners() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in OTHERS and isinstance(module, ModuleType):
            yield name, dict(vars(module))
            for value in list(vars(module).values()):
                if isinstance(value, type) and value.__module__.partition(".")[0] in OTHERS:
                    yield f"{value.__module__}.{value.__qualname__}", dict(vars(value))


def is_ours(value: Any) -> bool:
    """Whether `value` is code of this package."""
    value = getattr(value, "__func__", value)
    if isinstance(value, FunctionType):
        return "crewai_dbos" in value.__code__.co_filename
    return getattr(value, "__module__", "").startswith("crewai_dbos")


def main(folder: str) -> None:
    import multiprocessing.pool  # noqa: F401

    import crewai.mcp.tool_resolver  # noqa: F401
    from crewai import LLM, Agent, Crew, Task
    from crewai.flow.flow import Flow, start

    from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow
    from crewai_dbos._crews import perform_crew  # noqa: F401
    from crewai_dbos._flows import perform_flow  # noqa: F401
    from crewai_dbos.testing import ModelServer, text
    from support.launching import launched

    with ModelServer(lambda request: text("Done.")) as server:
        llm: Any = LLM(model="openai/gpt-4o-mini", api_key="sk-test", base_url=server.base_url)

        class Working(Flow[dict[str, Any]]):
            @start()
            def work(self) -> str:
                return str(crew.kickoff())

        before = code()
        clerk = Agent(role="Clerk", goal="Work", backstory="Diligent.", llm=llm)
        agent = DBOSAgent(agent_name="clerk", orig_agent=clerk)
        task = Task(description="Do it.", expected_output="It.", agent=agent)
        crew = DBOSCrew(crew_name="crew", orig_crew=Crew(agents=[agent], tasks=[task]))
        flow = DBOSFlow(flow_name="flow", orig_flow=Working)
        with launched(f"sqlite:///{folder}/dbos.sqlite"):
            assert flow.kickoff() == "Done."
    # What is new and not ours is loaded late, or a cache.
    changed = {
        key
        for key, value in code().items()
        if (value is not before[key] if key in before else is_ours(value))
    }
    print("\n" + json.dumps(sorted(changed)))
