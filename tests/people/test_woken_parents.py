"""Runs that were woken, and wait for runs that wait for people themselves."""

from __future__ import annotations

from typing import Any

from crewai.flow.flow import Flow, listen, start
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSFlow, People, ask
from crewai_dbos._people.waiting import AT_ONCE
from crewai_dbos.control import Reply
from people.conftest import Desk
from support.databases import sqlite_here
from support.names import unique

pytestmark = sqlite_here("url")

PEOPLE = People(linger=0.1)


class Child(Flow[dict[str, Any]]):
    @start()
    def asks(self) -> str:
        return str(ask("And the child?"))


child = DBOSFlow(flow_name="woken.child", orig_flow=Child, people=PEOPLE)


class Parent(Flow[dict[str, Any]]):
    @start()
    def asks(self) -> str:
        return str(ask("Shall it begin?"))

    @listen(asks)
    def begins(self, said: str) -> str:
        with SetWorkflowID(f"{self.state['run']}/child"):
            return f"{said}, {child.start().get_result()}"


def test_as_many_parents_as_may_be_at_work_do_not_hold_up_their_children(desk: Desk) -> None:
    parent = DBOSFlow(flow_name=unique("parent"), orig_flow=Parent, people=PEOPLE)
    runs = [unique("run") for _ in range(AT_ONCE)]
    for run in runs:
        with SetWorkflowID(run):
            parent.start({"run": run})
    for run in runs:
        desk.parked(run)
    for run in runs:
        desk.answer(run, Reply("yes"))
    for run in runs:
        desk.parked(f"{run}/child")
    for run in runs:
        desk.answer(f"{run}/child", Reply("too"))
    for run in runs:
        assert DBOS.retrieve_workflow(run).get_result() is not None
        assert parent.retrieve(run).get_result() == "yes, too"
