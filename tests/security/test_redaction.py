"""``redact=`` sees every text before it is stored."""

from __future__ import annotations

import base64
import datetime
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.flow.flow import Flow, and_, listen, start
from crewai.flow.human_feedback import human_feedback
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID
from hypothesis import given
from pydantic import BaseModel

from codec.values import stored as as_stored
from codec.values import values
from crewai_dbos import (
    DBOSAgent,
    DBOSCrew,
    DBOSFlow,
    DefinitionError,
    DriftError,
    UnstorableValueError,
)
from crewai_dbos._dbos_seam.rows import recorded_rows
from crewai_dbos._stored.codec import decode, encode
from crewai_dbos._stored.redaction import redacted
from crewai_dbos.testing import ModelServer, Request, error, text, tool_calls
from crewai_dbos.testing.replies import ToolCall
from support.examples import examples
from support.launching import launched
from support.names import unique
from test_secrets import stored_texts

CARD = "4000123412341234"
HIDDEN = "[card]"


def no_cards(said: str) -> str:
    return re.sub(r"\b\d{16}\b", HIDDEN, said)


def script(request: Request) -> Any:
    if "fail" in str(request.messages[-1]["content"]):
        return error(400, message=f"no {CARD}")
    if request.tools and not any(m["role"] == "tool" for m in request.messages):
        return tool_calls(ToolCall("charge", {"card": CARD}))
    return text(f"Charged {CARD}.")


@tool
def charge(card: str) -> str:
    """Charge a card."""
    return f"done: {card}"


class Order(BaseModel):
    id: str = ""
    card: str = ""
    when: datetime.date | None = None


def llm_of(server: ModelServer) -> LLM:
    return LLM(model="openai/gpt-4o-mini", api_key="key", base_url=server.base_url)


def last(run_id: str) -> int:
    return max(row.step_id for row in recorded_rows(run_id))


def test_what_redact_takes_out_is_nowhere_in_the_database(tmp_path: Path) -> None:
    with ModelServer(script) as server, launched(f"sqlite:///{tmp_path}/dbos.sqlite"):
        llm = llm_of(server)
        clerk = Agent(role="C", goal="G", backstory="B", llm=llm, tools=[charge], max_retry_limit=0)
        task = Task(description="Charge {card}", expected_output="A receipt", agent=clerk)
        crew = DBOSCrew(
            crew_name=unique("crew"),
            orig_crew=Crew(agents=[clerk], tasks=[task]),
            redact=no_cards,
        )

        class Charging(Flow[Order]):
            @start()
            def ask(self) -> str:
                self.state.card = CARD
                self.state.when = datetime.date(2026, 1, 2)
                return str(llm.call("Whose is it?"))

            @listen(ask)
            def both(self, said: str) -> list[Any]:
                return [said, self.state.when]

        flow = DBOSFlow(flow_name=unique("flow"), orig_flow=Charging, redact=no_cards)
        agent = DBOSAgent(agent_name=unique("agent"), orig_agent=clerk, redact=no_cards)
        with SetWorkflowID("crew"):
            assert crew.kickoff({"card": CARD}).raw == f"Charged {HIDDEN}."
        with SetWorkflowID("flow"):
            assert flow.kickoff({"card": CARD}) == [
                f"Charged {HIDDEN}.",
                datetime.date(2026, 1, 2),
            ]
        task = Task(description=f"fail with {CARD}", expected_output="E", agent=agent)
        with SetWorkflowID("agent"), pytest.raises(Exception, match=r"no \[card\]"):
            agent.execute_task(task)
        stored = stored_texts(tmp_path / "dbos.sqlite")
        assert HIDDEN in stored
        assert CARD not in stored
        # The model is asked with what the run goes on with, and a replay is the same.
        assert CARD not in str(server.requests[0].messages)
        asked = len(server.requests)
        for durable, run_id in ((crew, "crew"), (flow, "flow")):
            fork = DBOS.fork_workflow(run_id, last(run_id) + 1).get_workflow_id()
            assert str(durable.retrieve(fork).get_result()) == str(
                durable.retrieve(run_id).get_result()
            )
        # The same call under the same id is the same run.
        with SetWorkflowID("crew"):
            crew.kickoff({"card": CARD})
        assert len(server.requests) == asked


@tool
def look_up(who: str) -> str:
    """Look up a card."""
    return f"{who} has {CARD}"


@tool
def refuse(who: str) -> str:
    """Refuse a card."""
    raise ValueError(f"{who} may not use {CARD}")


def asks_a_tool(request: Request) -> Any:
    if request.tools and not any(m["role"] == "tool" for m in request.messages):
        return tool_calls(ToolCall(request.tools[0]["function"]["name"], {"who": "Ann"}))
    return text("Done.")


@pytest.mark.parametrize("used", [look_up, refuse])
def test_the_model_is_told_what_is_stored_of_a_tool(tmp_path: Path, used: Any) -> None:
    with ModelServer(asks_a_tool) as server, launched(f"sqlite:///{tmp_path}/dbos.sqlite"):
        clerk = Agent(role="C", goal="G", backstory="B", llm=llm_of(server), tools=[used])
        task = Task(description="Look.", expected_output="A card", agent=clerk)
        orig = Crew(agents=[clerk], tasks=[task])
        crew = DBOSCrew(crew_name=unique("crew"), orig_crew=orig, redact=no_cards)
        with SetWorkflowID("crew"):
            crew.kickoff()
        first = str(server.requests[-1].messages)
        assert HIDDEN in first
        assert CARD not in first
        steps = {row.name: row.step_id for row in recorded_rows("crew")}
        answered = next(step_id for name, step_id in steps.items() if "llm#2" in name)
        DBOS.fork_workflow("crew", answered).get_result()
        assert str(server.requests[-1].messages) == first


seen: list[tuple[str, Any]] = []


class Says:
    def request_feedback(self, context: Any, flow: Any) -> str:
        return f"yes, {CARD}"


class Passing(Flow[Order]):
    @start()
    def first(self) -> dict[str, str]:
        self.state.card = CARD
        self.cards = [CARD]
        self.same = self.cards
        return {"card": CARD}

    @listen(first)
    @human_feedback(message="Right?", provider=Says())
    def second(self, given: Any) -> str:
        seen.append(("second", (given, self.state.card, self.cards, self.same is self.cards)))
        return f"for {CARD}"

    @listen(second)
    def third(self, given: Any) -> list[str]:
        said = [each.feedback for each in self.human_feedback_history]
        seen.append(("third", (given.output, said, self.last_human_feedback is given)))
        return self.cards

    @listen(third)
    def last(self, given: Any) -> Any:
        seen.append(("last", (given, given is self.cards)))
        raise ValueError(f"no {CARD}")


def test_a_flow_goes_on_with_what_is_stored(tmp_path: Path) -> None:
    seen.clear()
    with launched(f"sqlite:///{tmp_path}/dbos.sqlite"):
        flow = DBOSFlow(flow_name=unique("flow"), orig_flow=Passing, redact=no_cards)
        with SetWorkflowID("flow"), pytest.raises(ValueError, match=r"no \[card\]"):
            flow.kickoff()
        first = dict(seen)
        assert first == {
            "second": ({"card": HIDDEN}, HIDDEN, [HIDDEN], True),
            "third": (f"for {HIDDEN}", [f"yes, {HIDDEN}"], True),
            "last": ([HIDDEN], True),
        }
        seen.clear()
        for row in recorded_rows("flow"):
            fork = DBOS.fork_workflow("flow", row.step_id + 1).get_workflow_id()
            with pytest.raises(ValueError, match=r"no \[card\]"):
                flow.retrieve(fork).get_result()
        assert all(first[what] == told for what, told in seen)
        assert {what for what, _ in seen} == set(first)
    assert CARD not in stored_texts(tmp_path / "dbos.sqlite")


class Beside(Flow[dict[str, Any]]):
    """One method ends, and is redacted, while another is at work on the same objects."""

    def __init__(self) -> None:
        super().__init__()
        self.state["shared"] = []

    @start()
    def begin(self) -> None:
        ended.clear()
        began.clear()

    @listen(begin)
    def ends(self) -> None:
        assert began.wait(30)
        self.state["shared"].append(f"ends {CARD}")
        self.state["first"] = self.state["second"] = [CARD]

    @listen(begin)
    def goes_on(self) -> None:
        shared = self.state["shared"]
        began.set()
        assert ended.wait(30)
        shared.append("goes on")
        self.state["second"] = ["other"]

    @listen(and_(ends, goes_on))
    def last(self) -> list[Any]:
        return [self.state[name] for name in ("shared", "first", "second")]


began, ended = threading.Event(), threading.Event()


def test_what_another_method_works_on_is_not_taken_from_it(tmp_path: Path) -> None:
    def let_the_other_go_on(said: str) -> str:
        if said == CARD:
            ended.set()  # the end of the first is just being written
        return no_cards(said)

    with launched(f"sqlite:///{tmp_path}/dbos.sqlite"):
        flow = DBOSFlow(flow_name=unique("flow"), orig_flow=Beside, redact=let_the_other_go_on)
        with SetWorkflowID("flow"):
            flow.kickoff()
        fork = DBOS.fork_workflow("flow", last("flow")).get_workflow_id()
        shared, first, second = flow.retrieve(fork).get_result()
        assert (shared, first, second) == ([f"ends {HIDDEN}", "goes on"], [HIDDEN], ["other"])
        assert flow.retrieve("flow").get_result() == [shared, first, second]
    assert CARD not in stored_texts(tmp_path / "dbos.sqlite")


def test_why_a_run_stopped_goes_through_it_as_well(tmp_path: Path) -> None:
    works = [True]

    with ModelServer(script) as server, launched(f"sqlite:///{tmp_path}/dbos.sqlite"):

        def build() -> Crew:
            if not works:
                raise RuntimeError(f"the safe of {CARD} is locked")
            clerk = Agent(role="C", goal="G", backstory="B", llm=llm_of(server))
            task = Task(description="Say it.", expected_output="E", agent=clerk)
            return Crew(agents=[clerk], tasks=[task])

        crew = DBOSCrew(crew_name=unique("crew"), orig_crew=build, redact=no_cards)
        with SetWorkflowID("crew"):
            crew.kickoff()
        works.clear()
        fork = DBOS.fork_workflow("crew", last("crew") + 1).get_workflow_id()
        with pytest.raises(DriftError, match="the safe of"):
            crew.retrieve(fork).get_result()
    assert CARD not in stored_texts(tmp_path / "dbos.sqlite")


def test_half_a_surrogate_pair_hides_nothing(tmp_path: Path) -> None:
    with (
        ModelServer(lambda request: text(f"It is \ud83d {CARD}.")) as server,
        launched(f"sqlite:///{tmp_path}/dbos.sqlite"),
    ):
        agent = DBOSAgent(
            agent_name=unique("agent"),
            orig_agent=Agent(role="C", goal="G", backstory="B", llm=llm_of(server)),
            redact=no_cards,
        )
        assert CARD not in agent.kickoff("Hello.").raw
    stored = stored_texts(tmp_path / "dbos.sqlite")
    for packed in re.findall(r"[A-Za-z0-9+/]{16,}={0,2}", stored):
        assert CARD.encode() not in base64.b64decode(packed + "==", validate=False)


@pytest.mark.parametrize("broken", ["raises", "returns"])
def test_nothing_is_stored_if_redact_fails(tmp_path: Path, broken: str) -> None:
    def redact(said: str) -> Any:
        if "Charged" not in said:
            return said
        if broken == "raises":
            raise KeyError("no such rule")
        return 1

    with ModelServer(script) as server, launched(f"sqlite:///{tmp_path}/dbos.sqlite"):
        agent = DBOSAgent(
            agent_name=unique("agent"),
            orig_agent=Agent(role="C", goal="G", backstory="B", llm=llm_of(server)),
            redact=redact,
        )
        with SetWorkflowID("r"), pytest.raises((KeyError, UnstorableValueError)):
            agent.kickoff("Hello.")
    assert "Charged" not in stored_texts(tmp_path / "dbos.sqlite")


@pytest.mark.parametrize("given", ["text", 1, [no_cards]])
def test_redact_is_a_function(given: Any) -> None:
    with pytest.raises(DefinitionError, match="redact is a function"):
        DBOSAgent(
            agent_name=unique("agent"),
            orig_agent=Agent(role="C", goal="G", backstory="B"),
            redact=given,
        )


async def later(said: str) -> str:
    return said


def test_redact_is_no_async_function() -> None:
    with pytest.raises(DefinitionError, match="redact is a function"):
        DBOSFlow(flow_name=unique("flow"), orig_flow=Flow, redact=later)


@examples(30, 100)
@given(values)
def test_a_value_is_itself_if_redact_changes_nothing(value: Any) -> None:
    data = encode(value)
    assert redacted(data, lambda said: said) == data


@examples(30, 100)
@given(values)
def test_what_is_left_of_a_value_can_be_read(value: Any) -> None:
    data = redacted(encode(value), lambda said: f"<{said}>")
    assert as_stored(decode(data)) is not None
