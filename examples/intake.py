"""A flow that asks people for what it can't know, and goes on when they have answered.

    crewai-dbos inbox --db-url sqlite:///intake.sqlite

No model is needed. Kill it at any time and start it again.
"""

from datetime import timedelta
from typing import Literal

from crewai.flow.flow import Flow, listen, router, start
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel

from crewai_dbos import DBOSFlow, People, ask


class Order(BaseModel):
    item: str
    amount: int


class Intake(BaseModel):
    customer: str = ""
    order: Order | None = None
    decision: str = ""


class TakeOrder(Flow[Intake]):
    @start()
    def what(self) -> None:
        self.state.order = ask(f"What does {self.state.customer} order?", schema=Order)

    @router(what)
    def check(self) -> Literal["large", "small"]:
        assert self.state.order is not None
        return "large" if self.state.order.amount > 10 else "small"

    @listen("large")
    def approve(self) -> str:
        self.state.decision = ask(
            f"May {self.state.customer} have {self.state.order}?",
            outcomes=["yes", "no"],
            audience="sales",
            deadline=timedelta(days=1),
            default="no",
        )
        return self.state.decision

    @listen("small")
    def accept(self) -> str:
        self.state.decision = "yes"
        return self.state.decision


intake = DBOSFlow(flow_name="intake", orig_flow=TakeOrder, people=People(linger=2.0))

if __name__ == "__main__":
    DBOS(
        config={
            "name": "intake",
            "system_database_url": "sqlite:///intake.sqlite",
            "application_version": "intake-1",
            "log_level": "WARNING",
        }
    )
    DBOS.launch()
    with SetWorkflowID("order-7"):
        print(intake.kickoff(inputs={"customer": "Ann"}))
    DBOS.destroy()
