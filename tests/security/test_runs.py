"""What remote servers, other programs and whoever can write a row may do to a run: nothing."""

from __future__ import annotations

import base64
import json
import pickle
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.llms.base_llm import BaseLLM
from crewai.tools import BaseTool, tool
from dbos import DBOS, DBOSClient, EnqueueOptions, SetWorkflowID
from pydantic import BaseModel, HttpUrl

from crewai_dbos import DBOSAgent, DBOSCrew, DriftError, RunConflictError, StepConfig
from crewai_dbos._dbos_seam.rows import recorded_rows
from crewai_dbos.testing import ModelServer, text, tool_calls
from crewai_dbos.testing.replies import ToolCall
from security import traps
from support.launching import launched
from support.names import unique
from test_secrets import stored_texts


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/dbos.sqlite"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(lambda request: text("Hello.")) as running:
        yield running


def llm_of(server: ModelServer) -> LLM:
    return LLM(model="openai/gpt-4o-mini", api_key="key", base_url=server.base_url)


def agent_of(server: ModelServer, **options: Any) -> DBOSAgent:
    orig = Agent(
        role="R", goal="G", backstory="B", llm=llm_of(server), max_retry_limit=0, **options
    )
    return DBOSAgent(agent_name=unique("agent"), orig_agent=orig)


def crew_of(server: ModelServer) -> DBOSCrew:
    clerk = Agent(role="Clerk", goal="G", backstory="B", llm=llm_of(server))
    task = Task(description="Greet {whom}", expected_output="A greeting", agent=clerk)
    return DBOSCrew(crew_name=unique("crew"), orig_crew=Crew(agents=[clerk], tasks=[task]))


# The body of a remote server's error ----------------------------------------------------


class ApiError(Exception):
    """As many clients of servers have one."""

    def __init__(self, message: str, body: Any, attribute: str = "data") -> None:
        super().__init__(message)
        setattr(self, attribute, body)


class FrozenError(Exception):
    """Its data can't be set."""

    def __init__(self, message: str, body: Any) -> None:
        super().__init__(message)
        self._body = body

    @property
    def data(self) -> Any:
        return self._body


def program(marker: Path) -> dict[str, Any]:
    """What ran a program in the process that read it."""
    popen = {"$dataclass": "subprocess:Popen", "fields": {"args": f"touch {marker}"}}
    return {
        "type": "subprocess:CalledProcessError",
        "bases": [],
        "message": "Not Found",
        "args": [{"$dataclass": f"{traps.__name__}:Deleting", "fields": {"path": str(marker)}}],
        "attrs": {"x": popen, "y": {"$class": "os:system"}},
    }


BODIES = ["harmless", "a program", "as ours", "no dict"]


@pytest.mark.parametrize("attribute", ["data", "details", "payload", "frozen"])
@pytest.mark.parametrize("body", BODIES)
def test_the_body_of_an_error_comes_back_as_it_was_and_does_nothing(
    tmp_path: Path, url: str, server: ModelServer, body: str, attribute: str
) -> None:
    found = {
        "harmless": {"message": "Not Found"},
        "a program": program(tmp_path / "ran"),
        "as ours": {"crewai_dbos": 2, "error": program(tmp_path / "ran")},
        "no dict": ["Not", "Found"],
    }[body]

    def refuse(output: Any) -> Any:
        if attribute == "frozen":
            raise FrozenError("Not Found", found)
        raise ApiError("Not Found", found, attribute)

    agent = agent_of(server, guardrail=refuse)
    with launched(url), traps.nothing_runs():
        with SetWorkflowID("r"), pytest.raises((ApiError, FrozenError)) as raised:
            agent.kickoff("Hello.")
        with pytest.raises((ApiError, FrozenError)) as retrieved:
            agent.retrieve("r").get_result()
        with SetWorkflowID("r"), pytest.raises((ApiError, FrozenError)) as again:
            agent.kickoff("Hello.")
    name = "data" if attribute == "frozen" else attribute
    for error in (raised.value, retrieved.value, again.value):
        assert (str(error), getattr(error, name)) == ("Not Found", found)
    assert not (tmp_path / "ran").exists()


def test_a_secret_in_the_body_of_an_error_is_not_stored(
    tmp_path: Path, url: str, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "correct-horse-battery")

    def refuse(output: Any) -> Any:
        raise ApiError("no", {"you sent": ["correct-horse-battery"]}, "details")

    agent = agent_of(server, guardrail=refuse)
    with launched(url), pytest.raises(ApiError):
        agent.kickoff("Hello.")
    stored = stored_texts(tmp_path / "dbos.sqlite")
    assert "you sent" in stored
    assert "correct-horse-battery" not in stored


def test_what_an_earlier_release_stored_of_an_error_is_read_and_does_nothing(
    tmp_path: Path, url: str, server: ModelServer
) -> None:
    def refuse(output: Any) -> Any:
        raise ApiError("Not Found", 1)

    agent = agent_of(server, guardrail=refuse)
    path = f"{__name__}:ApiError"
    ours = {"type": path, "bases": [], "message": "m", "args": ["m"], "attrs": {"data": {"a": 1}}}
    with launched(url), traps.nothing_runs():
        with SetWorkflowID("r"), pytest.raises(ApiError):
            agent.kickoff("Hello.")
        for name, data, expected in (
            ("ApiError", ours, ApiError),
            ("CalledProcessError", program(tmp_path / "ran"), Exception),
            ("ApiError", {"message": "Not Found"}, Exception),
        ):
            error = {"name": name, "message": data["message"], "code": None, "data": data}
            with sqlite3.connect(tmp_path / "dbos.sqlite") as connection:
                connection.execute("UPDATE workflow_output SET error = ?", [json.dumps(error)])
            with pytest.raises(expected, match=data["message"]) as raised:
                agent.retrieve("r").get_result()
            if data is ours:
                assert raised.value.data == {"a": 1}
    assert not (tmp_path / "ran").exists()


# Orders of other programs ---------------------------------------------------------------


def enqueue(url: str, order: dict[str, Any], run_id: str) -> None:
    client = DBOSClient(system_database_url=url)
    options: EnqueueOptions = {
        "queue_name": "orders",
        "workflow_name": "crewai_dbos.crew",
        "workflow_id": run_id,
        "serialization_type": "portable",
    }
    client.enqueue(options, order)
    client.destroy()


FORM = {"$model": f"{traps.__name__}:LoudModel", "fields": {"name": "x"}, "set": []}


def test_json_of_a_user_in_an_order_stays_json(url: str, server: ModelServer) -> None:
    crew = crew_of(server)
    seen: list[Any] = []
    crew.before_kickoff_callbacks.append(lambda inputs: seen.append(inputs))
    with launched(url), traps.nothing_runs():
        DBOS.register_queue("orders", polling_interval_sec=0.02)
        inputs = {"whom": "Ann", "from the user": FORM}
        enqueue(url, {"v": 2, "crew": crew.crew_name, "inputs": inputs}, "r")
        assert crew.retrieve("r").get_result().raw == "Hello."
        (status,) = DBOS.list_workflows(workflow_ids=["r"])
        assert status.input["args"][0]["inputs"] == inputs


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"v": 1, "inputs": {"a": {"$dataclass": "subprocess:Popen"}}}, "is not a dataclass"),
        ({"v": 1, "inputs": {"a": {"$class": "os:system"}}}, "Unknown type tag"),
        ({"v": 2, "inputs": {"$enum": "os:system", "value": 1}, "forms": ["inputs"]}, "be found"),
        ({"v": 3}, "was not written by crewai-dbos"),
        ({"v": 2, "output_file": "/tmp/x"}, "unknown field 'output_file'"),
        ({"v": 2, "sealed": {"$sealed": "x", "by": "y"}}, "through the serializer 'y'"),
        ({"v": 2, "forms": 1}, "TypeError"),
    ],
)
def test_an_order_that_can_not_be_read_stops_its_run_and_does_nothing(
    url: str, server: ModelServer, change: dict[str, Any], why: str
) -> None:
    crew = crew_of(server)
    with launched(url), traps.nothing_runs():
        DBOS.register_queue("orders", polling_interval_sec=0.02)
        enqueue(url, {"crew": crew.crew_name, "inputs": None, **change}, "r")
        with pytest.raises(Exception, match=why):
            crew.retrieve("r").get_result()
        assert DBOS.list_workflows()[0].status == "CANCELLED"
    assert not server.requests


def test_a_task_of_an_order_says_what_is_to_be_done_and_nothing_else(
    tmp_path: Path, url: str, server: ModelServer
) -> None:
    agent = agent_of(server)
    task = {"description": "d", "expected_output": "e", "output_file": str(tmp_path / "written")}
    order = {"v": 2, "agent": agent.agent_name, "method": "execute_task", "task": task}
    with launched(url):
        client = DBOSClient(system_database_url=url)
        DBOS.register_queue("orders", polling_interval_sec=0.02)
        for run_id, stored in (
            ("a", {**order, "arguments": {"context": None}}),
            ("b", {**order, "method": "copy", "arguments": {}}),
            ("c", {**order, "arguments": {}, "given": {"llm": "x"}}),
        ):
            options: EnqueueOptions = {
                "queue_name": "orders",
                "workflow_name": "crewai_dbos.agent",
                "workflow_id": run_id,
                "serialization_type": "portable",
            }
            client.enqueue(options, stored)
            with pytest.raises(DriftError):
                agent.retrieve(run_id).get_result()
        client.destroy()
    assert not (tmp_path / "written").exists()
    assert not server.requests


# Rows that somebody wrote ---------------------------------------------------------------


class Program:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def test_a_row_of_ours_that_says_it_is_a_pickle_is_not_unpickled(
    tmp_path: Path, url: str, server: ModelServer
) -> None:
    crew = crew_of(server)
    with launched(url):
        with SetWorkflowID("r"):
            crew.kickoff({"whom": "Ann"})
        rows = recorded_rows("r")
        name = next(row.name for row in rows if row.name.endswith("llm#1"))
        pickled = base64.b64encode(pickle.dumps(Program(tmp_path / "ran"))).decode()
        with sqlite3.connect(tmp_path / "dbos.sqlite") as connection:
            connection.execute(
                "UPDATE operation_outputs SET output = ?, serialization = 'py_pickle' "
                "WHERE function_name = ?",
                [pickled, name],
            )
        fork = DBOS.fork_workflow("r", rows[-1].step_id + 1).get_workflow_id()
        with pytest.raises(Exception, match=name):
            crew.retrieve(fork).get_result()
    assert not (tmp_path / "ran").exists()
    assert len(server.requests) == 1


def test_an_entry_that_names_what_it_may_not_stops_the_run_and_names_the_row(
    tmp_path: Path, url: str, server: ModelServer
) -> None:
    crew = crew_of(server)
    with launched(url), traps.nothing_runs():
        with SetWorkflowID("r"):
            crew.kickoff({"whom": "Ann"})
        rows = recorded_rows("r")
        row = next(row for row in rows if row.name.endswith("llm#1"))
        for result, why in (
            ({"$dataclass": "subprocess:Popen", "fields": {}}, "is not a dataclass"),
            ({"$model": "antigravity:A", "fields": {}, "set": []}, r"allow_modules\('antigravity'"),
            ({"$derived": "builtins:bytearray", "args": [2_000_000_000]}, "not written by"),
        ):
            changed = json.dumps({**row.output, "result": result})
            with sqlite3.connect(tmp_path / "dbos.sqlite") as connection:
                connection.execute(
                    "UPDATE operation_outputs SET output = ? WHERE function_name = ?",
                    [changed, row.name],
                )
            fork = DBOS.fork_workflow("r", rows[-1].step_id + 1).get_workflow_id()
            with pytest.raises(Exception, match=why) as raised:
                crew.retrieve(fork).get_result()
            assert row.name in str(raised.value)
    assert len(server.requests) == 1


# What one user is told of another's -----------------------------------------------------


def test_a_run_id_that_is_taken_tells_nothing_of_the_run(url: str, server: ModelServer) -> None:
    crew = crew_of(server)
    with launched(url):
        with SetWorkflowID("r"):
            crew.kickoff({"whom": "Ann Secretive of 5 Hidden Lane"})
        with SetWorkflowID("r"), pytest.raises(RunConflictError) as refused:
            crew.kickoff({"whom": "Bob"})
    assert "differs in its inputs" in str(refused.value)
    assert "Ann" not in str(refused.value)


# Names and digests ----------------------------------------------------------------------


def colliding() -> tuple[str, str]:
    """Two arguments whose digests begin with the same 32 bits, as anybody finds in a second."""
    from crewai_dbos._stored.digest import digest

    seen: dict[str, str] = {}
    for number in range(1_000_000):
        to = f"user{number}"
        short = digest({"to": to})[:8]
        if short in seen:
            return seen[short], to
        seen[short] = to
    raise AssertionError


def test_two_arguments_that_were_alike_in_32_bits_are_two_calls(url: str) -> None:
    pair = colliding()
    sent: list[str] = []

    @tool
    @DBOS.step()
    def pay(to: str) -> str:
        """Pay somebody."""
        sent.append(to)
        return f"paid {to}"

    def script(request: Any) -> Any:
        if any(message["role"] == "tool" for message in request.messages):
            return text("Done.")
        return tool_calls(*(ToolCall("pay", {"to": to}) for to in pair))

    with ModelServer(script) as server, launched(url):
        agent = agent_of(server, tools=[pay])
        with SetWorkflowID("r"):
            agent.kickoff("Pay both.")
        names = {row.name for row in recorded_rows("r") if "tool:pay" in row.name}
        last = recorded_rows("r")[-1].step_id
        assert agent.retrieve(DBOS.fork_workflow("r", last + 1).workflow_id).get_result()
    assert len(names) == 2
    assert all(name.endswith("#1") for name in names)
    assert sorted(sent) == sorted(pair)


def test_what_a_request_said_can_not_be_looked_up(url: str, server: ModelServer) -> None:
    """Equal requests of two runs have nothing in common in the database."""
    crew = crew_of(server)
    digests = []
    with launched(url):
        for run_id in ("a", "b"):
            with SetWorkflowID(run_id):
                crew.kickoff({"whom": "Ann"})
            (entry,) = [row.output for row in recorded_rows(run_id) if row.name.endswith("llm#1")]
            digests.append(entry["request"]["messages"])
    assert digests[0] != digests[1]


class Account(BaseModel):
    url: HttpUrl


def test_two_addresses_are_two_calls(url: str) -> None:
    """What differs only after an 0x is no address of an object."""
    pair = ("https://chain.example/0x52908400", "https://chain.example/0xde709f21")
    asked: list[str] = []

    class Balance(BaseTool):
        name: str = "balance"
        description: str = "Look an account up."
        args_schema: type[BaseModel] = Account

        def _run(self, url: HttpUrl) -> str:
            asked.append(str(url))
            return f"balance of {url}"

    def script(request: Any) -> Any:
        if any(message["role"] == "tool" for message in request.messages):
            return text("Done.")
        return tool_calls(*(ToolCall("balance", {"url": one}) for one in pair))

    with ModelServer(script) as server, launched(url):
        orig = Agent(role="R", goal="G", backstory="B", llm=llm_of(server), tools=[Balance()])
        agent = DBOSAgent(
            agent_name=unique("agent"), orig_agent=orig, tool_step_config=StepConfig()
        )
        with SetWorkflowID("r"):
            agent.kickoff("Look both up.")
        rows = [row for row in recorded_rows("r") if "tool:balance" in row.name]
    assert sorted(asked) == sorted(pair)
    assert {row.name.rpartition("#")[2] for row in rows} == {"1"}
    assert len({row.name for row in rows}) == 2


def test_token_counts_are_numbers_whatever_a_server_sends(tmp_path: Path, url: str) -> None:
    class Talking(BaseLLM):
        def call(self, messages: Any, *args: Any, **kwargs: Any) -> str:
            self._track_token_usage_internal(
                {"prompt_tokens": 3, "total_tokens": 3, "who": "PATIENT ZEBULON"}
            )
            return "Hello."

        def supports_function_calling(self) -> bool:
            return False

    orig = Agent(role="R", goal="G", backstory="B", llm=Talking(model="own"))
    agent = DBOSAgent(agent_name=unique("agent"), orig_agent=orig)
    with launched(url):
        assert agent.kickoff("Hello.").raw == "Hello."
    stored = stored_texts(tmp_path / "dbos.sqlite")
    assert "prompt_tokens" in stored
    assert "ZEBULON" not in stored
