"""The user's module in the crash tests: tools, agents, and what a process does with them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any

from crewai import Agent, Task
from crewai.llms.providers.openai.completion import OpenAICompletion
from crewai.tools import tool
from dbos import DBOS, DBOSConfig, SetWorkflowID

from crash.names import API_KEY, ASK, RUN
from crewai_dbos import DBOSAgent, idempotency_key
from crewai_dbos._dbos_seam.instance import poll_internal_queue
from crewai_dbos.testing import report_effect
from crewai_dbos.testing.crash import _faults
from crewai_dbos.testing.crash._program import POLL


@tool
@DBOS.step()
def send_letter(to: str) -> str:
    """Send a letter and return the receipt."""
    report_effect("letter", to=to, key=idempotency_key())
    return f"receipt for {to}"


@tool("send_letter")
def send_undecorated(to: str) -> str:
    """Send a letter and return the receipt."""
    report_effect("letter", to=to)
    return f"receipt for {to}"


class TextOnlyLLM(OpenAICompletion):
    """A model without native tool calls."""

    def supports_function_calling(self) -> bool:
        return False


def _postman(model: Callable[..., Any] = OpenAICompletion, send: Any = send_letter) -> Agent:
    llm = model(
        model="gpt-4o-mini",
        api_key=API_KEY,
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:1/v1"),
    )
    return Agent(
        role="Postman",
        goal="Deliver",
        backstory="You send letters.",
        llm=llm,
        tools=[send],
    )


def undecorated() -> Agent:
    """A postman whose tool is no DBOS step."""
    return _postman(send=send_undecorated)


def build(name: str, source: Callable[[], Agent] = _postman) -> DBOSAgent:
    """A postman of this name, and nothing else of a process."""
    return DBOSAgent(agent_name=name, orig_agent=source)


# Built by a callable in each run: the model server's address is not known at import.
AGENTS = {
    "native": build("native"),
    "react": build("react", lambda: _postman(TextOnlyLLM)),
}


native_postman, react_postman = AGENTS["native"], AGENTS["react"]


# Jobs -------------------------------------------------------------------------


def start(order: dict[str, Any]) -> Any:
    """Begin the run, perhaps to be killed in it."""
    launch(order)
    agent = AGENTS[order["agent"]]
    with SetWorkflowID(RUN):
        if order["entry"] == "async":
            return plain(asyncio.run(agent.akickoff(ASK)))
        return plain(agent.execute_task(Task(description=ASK, expected_output="The receipts.")))


def recover(order: dict[str, Any]) -> Any:
    """What a restarted program does: import the agents, launch DBOS. Returns the run's answer."""
    launch(order)
    return answer_of(AGENTS[order["agent"]])


# Their parts ------------------------------------------------------------------


def launch(order: dict[str, Any]) -> None:
    _faults.install(RUN, **order.get("fault", {}))
    config: DBOSConfig = {"name": "crash", "system_database_url": order["database_url"]}
    if "executor_id" in order:
        config["executor_id"] = order["executor_id"]
    poll_internal_queue(DBOS(config=config), POLL)
    DBOS.launch()


def answer_of(agent: DBOSAgent, run_id: str = RUN) -> Any:
    # Only so that the wait is not rounded up to a second, which is what DBOS polls by default.
    with contextlib.suppress(Exception):
        DBOS.retrieve_workflow(run_id).get_result(polling_interval_sec=0.02)
    return plain(agent.retrieve(run_id).get_result())


def plain(answer: Any) -> Any:
    """An answer as JSON data, with what crewAI counts beside it."""
    if isinstance(answer, str):
        return answer
    return [answer.raw, answer.usage_metrics, len(answer.messages)]
