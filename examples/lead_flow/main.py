"""Leads are scored at the same time, the best are written to, long letters are written again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from crewai.flow.flow import Flow, listen, or_, router, start
from dbos import DBOS, SetWorkflowID
from outbox import send_letter
from pydantic import BaseModel, Field

from crewai_dbos import DBOSFlow
from crews import Score, scoring, writing

LEADS = json.loads(Path(__file__).with_name("leads.json").read_text())
WORDS = 8


class State(BaseModel):
    chosen: dict[str, Score] = Field(default_factory=dict)
    letters: dict[str, str] = Field(default_factory=dict)
    rounds: int = 0

    def too_long(self) -> list[str]:
        return [name for name in self.chosen if len(self.letters.get(name, "").split()) > WORDS]


class LeadFlow(Flow[State]):
    @start()
    async def score(self) -> None:
        found = await asyncio.gather(*(scoring.akickoff(lead) for lead in LEADS))
        scores = {lead["name"]: each.pydantic for lead, each in zip(LEADS, found, strict=True)}
        self.state.chosen = {name: each for name, each in scores.items() if each.score >= 50}

    @router(score)
    def choose(self) -> str:
        return "write" if self.state.chosen else "nobody"

    @listen(or_("write", "again"))
    async def draft(self) -> None:
        names = self.state.too_long() if self.state.letters else list(self.state.chosen)
        words = max(WORDS - self.state.rounds, 3)
        asked = (
            {"name": name, "reason": self.state.chosen[name].reason, "words": words}
            for name in names
        )
        written = await asyncio.gather(*map(writing.akickoff, asked))
        self.state.letters.update({n: each.raw for n, each in zip(names, written, strict=True)})
        self.state.rounds += 1

    @router(draft)
    def check(self) -> str:
        return "again" if self.state.too_long() and self.state.rounds < 3 else "send"

    @listen("send")
    def deliver(self) -> str:
        for name, letter in self.state.letters.items():
            send_letter.run(to=name, letter=letter)
        return f"{', '.join(self.state.letters)}, after {self.state.rounds} rounds"

    @listen("nobody")
    def report(self) -> str:
        return "Nobody to write to."


flow = DBOSFlow(flow_name="leads", orig_flow=LeadFlow)

if __name__ == "__main__":
    DBOS(
        config={
            "name": "leads",
            "system_database_url": "sqlite:///leads.sqlite",
            "application_version": "leads-1",
        }
    )
    DBOS.launch()
    with SetWorkflowID("leads-of-november"):
        print(flow.kickoff())
