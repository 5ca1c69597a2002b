"""A default that is made while a stored value is read is no part of the run that reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from crewai import LLM
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel, Field

from crewai_dbos import DBOSLLM, allow_modules, now, random, step
from crewai_dbos._stored.codec import decode
from crewai_dbos._stored.type_paths import import_path
from crewai_dbos.testing import text
from support.launching import launched_in
from support.serving import Serve, serving

ASKED: list[Any] = []


def ask() -> str:
    return str(ASKED[-1].call("What?"))


class Letter(BaseModel):
    body: str
    at: datetime = Field(default_factory=now)
    answer: str = Field(default_factory=ask)


@dataclass
class Note:
    body: str
    chance: float = field(default_factory=random)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, lambda request: text("That."))


def read() -> list[str]:
    letter = decode({"$model": import_path(Letter), "fields": {"body": "Hello"}, "set": ["body"]})
    note = decode({"$dataclass": import_path(Note), "fields": {"body": "Hello"}})
    assert isinstance(letter.at, datetime)
    assert 0 <= note.chance < 1
    return [letter.body, letter.answer]


@DBOS.workflow()
def reads() -> list[str]:
    step(str)
    found = read()
    step(str)
    return found


@DBOS.workflow()
async def reads_async() -> list[str]:
    await asyncio.to_thread(step, str)
    found = read()
    await asyncio.to_thread(step, str)
    return found


@pytest.mark.parametrize("workflow", [reads, reads_async])
@pytest.mark.parametrize("durable", [False, True])
def test_nothing_of_it_is_recorded(
    workflow: Any, durable: bool, serve: Serve, tmp_path: Path
) -> None:
    serve()
    allow_modules(__name__)
    llm = LLM(model="gpt-4o-mini")
    ASKED.append(DBOSLLM(llm) if durable else llm)
    with launched_in(tmp_path):
        with SetWorkflowID("run"):
            found = asyncio.run(workflow()) if workflow is reads_async else workflow()
        assert found == ["Hello", "That."]
        names = [row["function_name"] for row in DBOS.list_workflow_steps("run")]
        assert len(names) == 2
        assert all("step" in name or "str" in name for name in names), names
        assert DBOS.fork_workflow("run", 3).get_result() == found
        assert DBOS.fork_workflow("run", 2).get_result() == found
