"""Everything at the top level of a module, as people have it: LLMs know their address early."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from crewai import LLM, Agent
from crewai.flow.flow import Flow, start

from crewai_dbos import DBOSAgent, DBOSFlow
from crewai_dbos.testing import Reply, Request, delayed, text

AWAY = "http://127.0.0.1:9/v1"
"""Where nobody answers."""


def _writer(llm: LLM) -> Agent:
    return Agent(role="Größte 作家\n", goal="Write", backstory="Kind.", llm=llm)


writer = DBOSAgent(
    agent_name="writer/作家",
    orig_agent=_writer(LLM(model="openai/gpt-4o-mini", api_key="sk-paid", base_url=AWAY)),
)
of_another_protocol = DBOSAgent(
    agent_name="responder",
    orig_agent=_writer(
        LLM(model="openai/gpt-4o-mini", api_key="sk-paid", base_url=AWAY, api="responses")
    ),
)


def write(inputs: list[str]) -> str:
    return str(writer.kickoff(" and ".join(inputs)).raw)


def script(request: Request) -> Reply:
    return text(f"A poem about {request.last_user_text}.")


class Hasty(Flow[dict[str, Any]]):
    """Gives up on two requests, one after the other, and makes a third."""

    @start()
    async def ask(self) -> str:
        llm = LLM(model="openai/gpt-4o-mini", api_key="sk-paid", base_url=AWAY)
        for question in ("slow one", "slow two"):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(llm.acall(question), 0.3)
        return str(await llm.acall("the last"))


hasty = DBOSFlow(flow_name="hasty", orig_flow=Hasty)


def slow(request: Request) -> Reply:
    return delayed(text("too late"), 2) if "slow" in request.last_user_text else text("in time")
