"""The endpoints of crewAI's AMP: what a client for that sends, and what it gets."""

from __future__ import annotations

from typing import Any

import pytest
from crewai import Agent, Crew, Task
from starlette.testclient import TestClient

from crewai_dbos import DBOSCrew, People
from crewai_dbos.control import Control
from crewai_dbos.testing import ApiError, ToolCall, text, tool_calls
from front.conftest import approved, client_of, crew, over, send
from people.conftest import until
from support.names import unique
from support.serving import Serve


def ended(client: TestClient, kickoff_id: str) -> dict[str, Any]:
    over(kickoff_id)

    def found() -> Any:
        status = client.get(f"status/{kickoff_id}").json()
        return status if status["status"] in ("completed", "error") else None

    status: dict[str, Any] = until(found)
    return status


def test_a_kickoff(control: Control) -> None:
    client = client_of(control, crew())
    assert client.get("inputs").json() == {"inputs": ["topic"]}
    begun = client.post("kickoff", json={"inputs": {"topic": "otters"}, "meta": {"from": "app"}})
    assert begun.status_code == 200
    assert list(begun.json()) == ["kickoff_id"]
    status = ended(client, begun.json()["kickoff_id"])
    assert status["execution_time"] >= 0  # on SQLite it may be whole seconds
    assert status["result"]["output"] == "Done: otters"
    (task,) = status["result"]["tasks"]
    assert (task["task_id"], task["output"], task["agent"]) == ("job", "Done: otters", "Clerk")
    assert set(status) == {"status", "result", "execution_time"}
    assert client.get("status/nobody").status_code == 404


def test_a_person_is_asked(control: Control, model: Serve) -> None:
    model(lambda _: text("otters"))
    client = client_of(control, crew(human=True))
    run_id = client.post("kickoff", json={"inputs": {"topic": "otters"}}).json()["kickoff_id"]

    def waiting() -> Any:
        status = client.get(f"status/{run_id}").json()
        return status if status["status"] == "awaiting_human_feedback" else None

    first = until(waiting)
    assert first["current_task"] == "job"
    assert first["progress"] == {"completed_tasks": 0}
    empty = {"execution_id": run_id, "task_id": "job", "human_feedback": " ", "is_approve": False}
    assert client.post("resume", json=empty).status_code == 422  # and it is not approved by it
    assert waiting()["requests"] == first["requests"]
    body = {"execution_id": run_id, "task_id": "job", "human_feedback": "Longer."}
    retried = client.post("resume", json={**body, "is_approve": False})
    assert (retried.status_code, retried.json()["status"]) == (200, "retrying")
    until(lambda: (waiting() or first)["requests"] != first["requests"])
    resumed = client.post("resume", json={**body, "is_approve": True})
    assert (resumed.status_code, resumed.json()["status"]) == (200, "resumed")
    assert ended(client, run_id)["status"] == "completed"
    assert client.post("resume", json={**body, "is_approve": True}).status_code == 404


@pytest.mark.parametrize("name", ["taskWebhookUrl", "stepWebhookUrl", "crewWebhookUrl", "webhooks"])
def test_webhooks_are_refused_before_anything_is_begun(
    control: Control, model: Serve, name: str
) -> None:
    server, run_id, topic = model(), unique("run"), unique("otters")
    client = client_of(control, crew())
    url = "http://169.254.169.254/latest/meta-data"
    body = {"inputs": {"topic": topic}, "kickoff_id": run_id, name: url}
    response = client.post("kickoff", json=body)
    assert response.status_code == 422
    assert "No webhooks are sent" in response.json()["detail"]
    assert client.get(f"status/{run_id}").status_code == 404
    assert not any(topic in request.last_user_text for request in server.requests)


def test_an_approval(control: Control) -> None:
    client = client_of(control, approved())
    run_id = client.post("kickoff", json={"inputs": {"topic": "otters"}}).json()["kickoff_id"]
    until(lambda: client.get(f"status/{run_id}").json()["status"] == "awaiting_human_feedback")
    body = {"execution_id": run_id, "task_id": "1", "human_feedback": "No.", "is_approve": False}
    assert client.post("resume", json={**body, "task_id": "2"}).status_code == 404
    assert client.post("resume", json=body).status_code == 200
    assert "No." in ended(client, run_id)["result"]["output"]


def test_two_questions_of_one_task_are_not_guessed_at(control: Control, model: Serve) -> None:
    def both(request: Any) -> Any:
        if request.tool_results:
            return text("Done.")
        return tool_calls(ToolCall("send", {"to": "ann"}), ToolCall("send", {"to": "bob"}))

    def build() -> Crew:
        clerk = Agent(role="Clerk", goal="W", backstory="O", llm="gpt-4o-mini", tools=[send])
        return Crew(
            agents=[clerk],
            tasks=[Task(name="job", description="W", expected_output="A line", agent=clerk)],
        )

    model(both)
    durable = DBOSCrew(
        crew_name=unique("crew"), orig_crew=build, people=People(approve_tools=["send"])
    )
    client = client_of(control, durable)
    run_id = client.post("kickoff", json={"inputs": {}}).json()["kickoff_id"]
    until(lambda: len(client.get(f"status/{run_id}").json().get("requests") or ()) == 2)
    body = {"execution_id": run_id, "task_id": "job", "human_feedback": "", "is_approve": True}
    refused = client.post("resume", json=body)
    assert refused.status_code == 409
    for request_id in refused.json()["requests"]:
        each = client.post("resume", json={**body, "task_id": request_id})
        assert each.status_code == 200
    assert ended(client, run_id)["status"] == "completed"


def test_what_has_failed(control: Control, model: Serve) -> None:
    model(lambda _: ApiError(400, "no such model", "invalid_request_error"))
    client = client_of(control, crew())
    run_id = client.post("kickoff", json={"inputs": {"topic": "otters"}}).json()["kickoff_id"]
    status = ended(client, run_id)
    assert status["status"] == "error"
    assert "no such model" in status["error"]
