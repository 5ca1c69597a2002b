"""An agent whose tools and handlers are DBOS code of the user's own, of every kind."""

from __future__ import annotations

import os
from typing import Any

import sqlalchemy as sa
from crewai import Agent
from crewai.events import ToolUsageFinishedEvent, crewai_event_bus
from crewai.llms.providers.openai.completion import OpenAICompletion
from crewai.tools import tool
from dbos import DBOS, SQLAlchemyDatasource

from crash.names import API_KEY
from crewai_dbos import DBOSAgent
from crewai_dbos.testing import report_effect
from crewai_dbos.testing.effects import EFFECTS

_datasource: SQLAlchemyDatasource


def ledger_url() -> str:
    return f"sqlite:///{os.environ[EFFECTS]}.ledger"


@DBOS.step()
def pack(part: str) -> str:
    report_effect(f"pack {part}")
    return f"packed {part}"


@tool
@DBOS.workflow()
def order(part: str) -> str:
    """Order a part."""
    return pack(part)


@tool
def pay(amount: int) -> str:
    """Pay an amount."""

    @_datasource.transaction(name="enter")
    def enter() -> str:
        statement = sa.text("INSERT INTO ledger VALUES (:amount)")
        _datasource.sql_session().execute(statement, {"amount": amount})
        return f"paid {amount}"

    return enter()


@DBOS.step()
def stamp(to: str) -> str:
    report_effect(f"stamp {to}")
    return f"stamped {to}"


@DBOS.step()
def seal(to: str) -> str:
    report_effect(f"seal {to}")
    return f"sealed {to}"


@tool
def post(to: str) -> str:
    """Post a letter: no step itself, but made of two."""
    return f"{stamp(to)}, {seal(to)}"


def _clerk() -> Agent:
    llm = OpenAICompletion(
        model="gpt-4o-mini",
        api_key=API_KEY,
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:1/v1"),
    )
    tools = [order, pay, post]
    return Agent(role="Clerk", goal="Work", backstory="Diligent.", llm=llm, tools=tools)


clerk = DBOSAgent(agent_name="clerk", orig_agent=_clerk)


def open_for_business() -> None:
    """What the program does before it launches DBOS."""
    global _datasource

    @crewai_event_bus.on(ToolUsageFinishedEvent)
    @DBOS.step()
    def on_tool(source: Any, event: Any) -> None:
        report_effect(f"event {event.tool_name} {sorted(event.tool_args.values())}")

    _datasource = SQLAlchemyDatasource.create(ledger_url())
    with _datasource.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE IF NOT EXISTS ledger (amount INTEGER)"))


def ledger() -> list[int]:
    """What has been paid."""
    with _datasource.engine.begin() as connection:
        rows = connection.execute(sa.text("SELECT amount FROM ledger ORDER BY 1"))
        return list(rows.scalars())
