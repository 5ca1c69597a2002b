"""With a serializer of the application's own nothing of the content can be read without its key."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.flow.flow import Flow, listen, start
from crewai.llms.base_llm import BaseLLM
from crewai.tools import tool
from dbos import DBOS, Serializer, SetWorkflowID
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import crewai_dbos
from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow, DriftError, People, SealedError, ask
from crewai_dbos._dbos_seam.rows import recorded_rows
from crewai_dbos.control import Control, Reply
from crewai_dbos.encryption import EncryptedSerializer, generate_key
from crewai_dbos.testing import ModelServer, Request, error, text, tool_calls
from crewai_dbos.testing.replies import ToolCall
from support.examples import examples
from support.launching import launched
from support.names import unique
from test_secrets import stored_texts

OLD, NEW = generate_key(), generate_key()

# What is said in the runs below, in inputs, prompts, arguments, results, states and errors.
CONTENT = ["Thaddeus", "41.97", "marzipan", "periwinkle", "quicksilver"]


def script(request: Request) -> Any:
    if "quicksilver" in str(request.messages[-1]["content"]):
        return error(400, message="no quicksilver")
    if request.tools and not any(m["role"] == "tool" for m in request.messages):
        return tool_calls(ToolCall("pay", {"to": "Thaddeus", "amount": "41.97"}))
    return text("marzipan")


@tool
def pay(to: str, amount: str) -> str:
    """Pay somebody."""
    return f"periwinkle for {to}"


class Account(BaseModel):
    owner: str = ""
    said: str = ""


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(script) as running:
        yield running


@pytest.fixture
def llm(server: ModelServer) -> LLM:
    return LLM(model="openai/gpt-4o-mini", api_key="key", base_url=server.base_url)


def crew_of(llm: LLM) -> DBOSCrew:
    clerk = Agent(role="Clerk", goal="Pay", backstory="Exact.", llm=llm, tools=[pay])
    tasks = [Task(description="Pay {whom}", expected_output="A receipt", agent=clerk)]
    return DBOSCrew(crew_name=unique("payers"), orig_crew=Crew(agents=[clerk], tasks=tasks))


def flow_of(llm: LLM) -> DBOSFlow:
    class Paying(Flow[Account]):
        @start()
        def ask(self) -> str:
            self.state.said = str(llm.call(f"Who is {self.state.owner}?"))
            return self.state.said

        @listen(ask)
        def note(self, said: str) -> str:
            return crewai_dbos.step(str.upper, said)

    return DBOSFlow(flow_name=unique("paying"), orig_flow=Paying)


@DBOS.step()
def remember(word: str) -> str:
    return f"{word} periwinkle"


@DBOS.workflow(name="encrypted_own")
def own(word: str) -> str:
    return remember(word)


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/dbos.sqlite"


def replay(run_id: str) -> Any:
    last = max(row.step_id for row in recorded_rows(run_id))
    return DBOS.fork_workflow(run_id, last + 1).get_workflow_id()


def test_nothing_that_was_said_is_in_the_database(
    tmp_path: Path, server: ModelServer, llm: LLM
) -> None:
    crew, flow = crew_of(llm), flow_of(llm)
    failing = DBOSAgent(
        agent_name=unique("failing"),
        orig_agent=Agent(role="R", goal="G", backstory="B", llm=llm, max_retry_limit=0),
    )
    with launched(url(tmp_path), serializer=EncryptedSerializer({"a": OLD})):
        with SetWorkflowID("pay-1"):
            assert crew.kickoff({"whom": "Thaddeus"}).raw == "marzipan"
        with SetWorkflowID("flow-1"):
            assert flow.kickoff({"owner": "Thaddeus"}) == "MARZIPAN"
        with SetWorkflowID("fail-1"), pytest.raises(Exception, match="no quicksilver"):
            failing.kickoff("Say quicksilver.")
        assert own("quicksilver") == "quicksilver periwinkle"
        with SetWorkflowID("batch"):
            crew.kickoff_for_each([{"whom": "Thaddeus"}])
        stored = stored_texts(tmp_path / "dbos.sqlite")
        assert [word for word in CONTENT if word.lower() in stored.lower()] == []
        # All of it is read again, and nothing is made again.
        asked = len(server.requests)
        assert crew.retrieve("pay-1").get_result().raw == "marzipan"
        assert crew.retrieve(replay("pay-1")).get_result().raw == "marzipan"
        assert flow.retrieve(replay("flow-1")).get_result() == "MARZIPAN"
        with pytest.raises(Exception, match="no quicksilver"):
            failing.retrieve("fail-1").get_result()
        with SetWorkflowID("pay-1"):
            assert crew.kickoff({"whom": "Thaddeus"}).raw == "marzipan"
        assert len(server.requests) == asked


def test_what_stays_in_the_clear_can_be_listed_without_the_key(tmp_path: Path, llm: LLM) -> None:
    crew = crew_of(llm)
    encrypting = launched(url(tmp_path), serializer=EncryptedSerializer({"a": OLD}))
    with encrypting, SetWorkflowID("pay-1"):
        crew.kickoff({"whom": "Thaddeus"})
    with launched(url(tmp_path)):
        (run,) = DBOS.list_workflows(workflow_ids=["pay-1"])
        assert (run.status, run.name) == ("SUCCESS", "crewai_dbos.crew")
        assert run.input["args"][0].keys() == {"v", "crew", "sealed"}
        rows = DBOS.list_workflow_steps("pay-1")
    names = [re.sub(r"\([0-9a-f]{32}\)", "()", row["function_name"]) for row in rows]
    assert f"crew:{crew.crew_name}#1/task:1#1/agent:Clerk#1/tool:pay()#1" in names
    llms = [row["output"] for row in rows if row["output"]["kind"] == "llm"]
    assert all(entry["extra"]["usage"][0]["total_tokens"] > 0 for entry in llms)
    assert all(row["output"].keys() <= CLEAR for row in rows)


CLEAR = {"v", "kind", "concurrent", "background", "seconds", "extra", "ids", "key", "sealed"}
CLEAR |= {"model", "models"}


def test_the_name_of_a_call_confirms_no_guess_of_its_arguments(tmp_path: Path, llm: LLM) -> None:
    crew = crew_of(llm)

    def digests(folder: Path, **config: Any) -> set[str]:
        folder.mkdir()
        with launched(url(folder), **config):
            with SetWorkflowID("pay-1"):
                crew.kickoff({"whom": "Thaddeus"})
            return set(re.findall(r"[0-9a-f]{32}", str([r.name for r in recorded_rows("pay-1")])))

    plain = digests(tmp_path / "plain")
    assert plain == digests(tmp_path / "again")
    assert plain.isdisjoint(digests(tmp_path / "a", serializer=EncryptedSerializer({"a": OLD})))


def test_keys_are_rotated_while_runs_are_under_way(
    tmp_path: Path, server: ModelServer, llm: LLM
) -> None:
    crew = crew_of(llm)
    with launched(url(tmp_path), serializer=EncryptedSerializer({"old": OLD})):
        with SetWorkflowID("pay-1"):
            crew.kickoff({"whom": "Thaddeus"})
        steps = [row.step_id for row in recorded_rows("pay-1")]
    asked = len(server.requests)
    with launched(url(tmp_path), serializer=EncryptedSerializer({"new": NEW, "old": OLD})):
        half = DBOS.fork_workflow("pay-1", steps[-1]).get_workflow_id()
        assert crew.retrieve(half).get_result().raw == "marzipan"
        assert crew.retrieve(replay(half)).get_result().raw == "marzipan"
        rows = recorded_rows(half)
        assert {row.output["sealed"]["$sealed"].split(".")[1] for row in rows} == {"old", "new"}
    assert len(server.requests) - asked <= 1


def test_a_run_that_began_in_the_clear_goes_on_encrypted(
    tmp_path: Path, server: ModelServer, llm: LLM
) -> None:
    crew = crew_of(llm)
    with launched(url(tmp_path)), SetWorkflowID("pay-1"):
        crew.kickoff({"whom": "Thaddeus"})
    asked = len(server.requests)
    with launched(url(tmp_path), serializer=EncryptedSerializer({"a": OLD})):
        rows = recorded_rows("pay-1")
        tools = [row.step_id for row in rows if "/tool:pay(" in row.name]
        fork = DBOS.fork_workflow("pay-1", tools[-1] + 1).get_workflow_id()
        assert crew.retrieve(fork).get_result().raw == "marzipan"
        after = {row.name: "sealed" in row.output for row in recorded_rows(fork)}
        assert [row.name for row in rows] == list(after)
        assert set(after.values()) == {False, True}
        assert crew.retrieve(replay(fork)).get_result().raw == "marzipan"
    assert len(server.requests) == asked + 1


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"serializer": EncryptedSerializer({"b": NEW})}, r"with the key 'a', which is not among"),
        ({"serializer": EncryptedSerializer({"a": NEW})}, r"it was changed, or that id"),
        ({}, r"has none\. Configure the same one"),
    ],
    ids=["key gone", "another key", "no serializer"],
)
def test_without_its_key_a_run_stops_and_says_so_and_goes_on_with_it(
    tmp_path: Path, server: ModelServer, llm: LLM, config: dict[str, Any], why: str
) -> None:
    crew = crew_of(llm)
    right = {"serializer": EncryptedSerializer({"a": OLD})}
    with launched(url(tmp_path), **right):
        with SetWorkflowID("pay-1"):
            crew.kickoff({"whom": "Thaddeus"})
        last = max(row.step_id for row in recorded_rows("pay-1"))
    asked = len(server.requests)
    with launched(url(tmp_path), **config):
        with pytest.raises(SealedError, match=why):
            crew.retrieve("pay-1").get_result()
        fork = DBOS.fork_workflow("pay-1", last + 1).get_workflow_id()
        with pytest.raises(SealedError, match=why):
            crew.retrieve(fork).get_result()
        assert DBOS.get_workflow_status(fork).status == "CANCELLED"
    with launched(url(tmp_path), **right):
        DBOS.resume_workflow(fork)
        assert crew.retrieve(fork).get_result().raw == "marzipan"
    assert len(server.requests) == asked


def test_why_a_run_stopped_is_encrypted_too(tmp_path: Path, llm: LLM) -> None:
    word = ["quicksilver"]

    def build() -> Crew:
        if word:
            return crew_of(llm).orig_crew
        raise RuntimeError("quicksilver is out")

    crew = DBOSCrew(crew_name=unique("built"), orig_crew=build)
    with launched(url(tmp_path), serializer=EncryptedSerializer({"a": OLD})):
        with SetWorkflowID("pay-1"):
            crew.kickoff({"whom": "Thaddeus"})
        word.clear()
        fork = replay("pay-1")
        with pytest.raises(DriftError, match="quicksilver is out"):
            crew.retrieve(fork).get_result()
        assert "quicksilver" not in stored_texts(tmp_path / "dbos.sqlite")


class Reversing(Serializer):
    """Somebody's own, which knows nothing of us."""

    def serialize(self, data: Any) -> str:
        return json.dumps(data, default=str)[::-1]

    def deserialize(self, serialized_data: str) -> Any:
        return json.loads(serialized_data[::-1])

    def name(self) -> str:
        return "reversing"


def test_a_serializer_of_the_applications_own_is_used(tmp_path: Path, llm: LLM) -> None:
    crew = crew_of(llm)
    with launched(url(tmp_path), serializer=Reversing()):
        with SetWorkflowID("pay-1"):
            crew.kickoff({"whom": "Thaddeus"})
        stored = stored_texts(tmp_path / "dbos.sqlite")
        assert "marzipan" not in stored
        assert "marzipan"[::-1] in stored
        assert crew.retrieve(replay("pay-1")).get_result().raw == "marzipan"


class Broken(Reversing):
    def serialize(self, data: Any) -> str:
        if "marzipan" in str(data):
            raise RuntimeError("the key store is away")
        return super().serialize(data)


def test_what_can_not_be_encrypted_ends_the_run_and_is_not_written(
    tmp_path: Path, llm: LLM
) -> None:
    crew = crew_of(llm)
    with launched(url(tmp_path), serializer=Broken()):
        with SetWorkflowID("pay-1"), pytest.raises(RuntimeError, match="the key store is away"):
            crew.kickoff({"whom": "Thaddeus"})
        assert "marzipan" not in stored_texts(tmp_path / "dbos.sqlite")


# The serializer ---------------------------------------------------------------------


class Thing:
    def __init__(self, name: str) -> None:
        self.name = name


@examples(30, 100)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_what_is_encrypted_comes_back(value: Any) -> None:
    serializer = EncryptedSerializer({"new": NEW, "old": OLD})
    written = serializer.serialize(value)
    assert serializer.deserialize(written) == value
    assert EncryptedSerializer({"old": OLD, "new": NEW}).deserialize(written) == value
    assert written != serializer.serialize(value)


def test_what_is_no_json_comes_back_as_well() -> None:
    serializer = EncryptedSerializer({"a": OLD})
    written = serializer.serialize({"args": (Thing("periwinkle"),), "kwargs": {}})
    assert "periwinkle" not in written
    assert serializer.deserialize(written)["args"][0].name == "periwinkle"


@pytest.mark.parametrize("at", [0, 2, 4, 8, 30, -1])
def test_what_was_changed_is_refused(at: int) -> None:
    serializer = EncryptedSerializer({"a": OLD})
    written = list(serializer.serialize("marzipan"))
    written[at] = "A" if written[at] != "A" else "B"
    with pytest.raises(SealedError):
        serializer.deserialize("".join(written))


@pytest.mark.parametrize(
    "written", ["", "x", "1.a.j", "1.a.j.", "1.a.j.!!", "1.a.o.AAAA", "2.a.j.A"]
)
def test_what_was_not_encrypted_is_refused(written: str) -> None:
    with pytest.raises(SealedError):
        EncryptedSerializer({"a": OLD}).deserialize(written)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({}, "needs a key"),
        ({"a": "not base64!"}, "'a' is not base64"),
        ({"a": "c2hvcnQ="}, "does not have 32 bytes"),
        ({"a": b"short"}, "does not have 32 bytes"),
        ({"a.b": OLD}, "The id of a key"),
        ({"": OLD}, "The id of a key"),
    ],
    ids=["none", "no base64", "short", "short bytes", "an id with a dot", "no id"],
)
def test_an_unusable_key_is_refused_without_being_told(keys: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        EncryptedSerializer(keys)
    assert "short" not in str(refused.value)


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREWAI_DBOS_KEYS", f"2026-12={NEW}, 2026-11={OLD}")
    written = EncryptedSerializer.from_environment().serialize("marzipan")
    assert EncryptedSerializer({"2026-12": NEW}).deserialize(written) == "marzipan"
    old = EncryptedSerializer({"2026-11": OLD}).serialize("marzipan")
    assert EncryptedSerializer.from_environment().deserialize(old) == "marzipan"
    monkeypatch.setenv("CREWAI_DBOS_KEYS", f"a={NEW},a={OLD}")
    with pytest.raises(ValueError, match="two keys with one id"):
        EncryptedSerializer.from_environment()
    monkeypatch.delenv("CREWAI_DBOS_KEYS")
    with pytest.raises(ValueError, match="CREWAI_DBOS_KEYS is not set"):
        EncryptedSerializer.from_environment()


COUNTED: list[dict[str, Any]] = []


class Counting(BaseLLM):
    """An LLM that counts more than crewAI, and passes on what its server calls it."""

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> str:
        details = {"cached_tokens": 1, "marzipan": 2}
        usage = {"prompt_tokens": 3, "total_tokens": 3, "prompt_tokens_details": details}
        self._track_token_usage_internal({**usage, "marzipan": 4, "periwinkle": {"Thaddeus": 5}})
        return "Hello."

    def _track_token_usage_internal(self, usage_data: dict[str, Any]) -> None:
        COUNTED.append(usage_data)
        super()._track_token_usage_internal(usage_data)

    def supports_function_calling(self) -> bool:
        return False


def test_of_token_counts_only_those_that_crewai_knows_stay_in_the_clear(tmp_path: Path) -> None:
    orig = Agent(role="R", goal="G", backstory="B", llm=Counting(model="own"))
    agent = DBOSAgent(agent_name=unique("counting"), orig_agent=orig)
    COUNTED.clear()
    with launched(url(tmp_path), serializer=EncryptedSerializer({"a": OLD})):
        with SetWorkflowID("run"):
            first = agent.kickoff("Hello.")
        stored = stored_texts(tmp_path / "dbos.sqlite")
        assert [word for word in CONTENT if word.lower() in stored.lower()] == []
        (row,) = [
            row["output"]
            for row in DBOS.list_workflow_steps("run")
            if "llm" in row["function_name"]
        ]
        known = {
            "prompt_tokens": 3,
            "total_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 1},
        }
        assert row["extra"] == {"usage": [known]}
        again = agent.retrieve(replay("run")).get_result()
    assert again.usage_metrics == first.usage_metrics
    assert len(COUNTED) == 2
    assert COUNTED[0] == COUNTED[1]


class Asking(Flow[Account]):
    @start()
    def decide(self) -> str:
        return ask("Who is Thaddeus?", outcomes=["quicksilver", "marzipan"])


def test_what_people_are_asked_and_say_is_encrypted(tmp_path: Path) -> None:
    flow = DBOSFlow(
        flow_name=unique("asking"), orig_flow=Asking, people=People(linger=0.1, audience="us")
    )
    serializer = EncryptedSerializer({"a": OLD})
    with launched(url(tmp_path), serializer=serializer):
        run = flow.start()
        with Control(url(tmp_path), serializer=serializer) as control:
            while not (asked := control.requests()):
                time.sleep(0.05)
            assert asked[0].question.message == "Who is Thaddeus?"
            control.answer(asked[0].request_id, Reply("quicksilver"), by="ann")
            assert run.get_result() == "quicksilver"
            assert control.request(asked[0].request_id).answer["value"] == "quicksilver"
        stored = stored_texts(tmp_path / "dbos.sqlite").lower()
        assert [word for word in CONTENT if word.lower() in stored] == []
        with (
            Control(url(tmp_path), serializer=EncryptedSerializer({"b": NEW})) as stranger,
            pytest.raises(SealedError),
        ):
            stranger.requests(only_open=False)
