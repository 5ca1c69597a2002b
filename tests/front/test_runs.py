"""Runs over HTTP: begun once, looked at, followed, stopped and forked."""

from __future__ import annotations

import json
import threading
from typing import Any
from urllib.parse import quote, unquote

import pytest
from crewai.flow.flow import Flow, start
from dbos import DBOS
from pydantic import BaseModel
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from crewai_dbos import DBOSFlow
from crewai_dbos._http import definitions as offered
from crewai_dbos._http import events
from crewai_dbos.control import Control
from crewai_dbos.errors import DefinitionError
from crewai_dbos.http import router
from front.conftest import TOKEN, approved, client_of, crew, over, send
from people.conftest import until
from support.names import unique
from support.serving import Serve


def ended(client: TestClient, run_id: str) -> dict[str, Any]:
    """The run, when it has ended."""
    over(unquote(run_id))

    def found() -> Any:
        run = client.get(f"runs/{run_id}").json()
        return run if run["state"] in ("done", "failed", "cancelled") else None

    run: dict[str, Any] = until(found)
    return run


def test_a_run_is_begun_once(control: Control, model: Serve) -> None:
    server, clerks, topic = model(), crew(), unique("otters")
    client, run_id = client_of(control, clerks), unique("run")

    def requests() -> int:
        return sum(topic in request.last_user_text for request in server.requests)

    first = client.post("runs", json={"inputs": {"topic": topic}, "run_id": run_id})
    assert (first.status_code, first.json()) == (202, {"run_id": run_id})
    again = client.post(
        "runs", json={"inputs": {"topic": topic}}, headers={"Idempotency-Key": run_id}
    )
    assert (again.status_code, again.json()) == (202, {"run_id": run_id})
    run = ended(client, run_id)
    assert run["state"] == "done"
    assert (run["definition"], run["kind"], run["children"]) == (clerks.crew_name, "crew", [])
    assert requests() == 1
    other = client.post("runs", json={"inputs": {"topic": "seals"}, "run_id": run_id})
    assert other.status_code == 409
    assert other.json()["type"] == "urn:crewai-dbos:run-conflict"
    two = {"inputs": {"topic": "a"}, "run_id": "x"}
    assert client.post("runs", json=two, headers={"Idempotency-Key": "y"}).status_code == 422
    assert requests() == 1

    tree = client.get(f"runs/{run_id}/tree").json()
    assert tree["children"][0]["name"] == "task:1.job"
    assert tree["left_out"] == 0
    cut = client.get(f"runs/{run_id}/tree", params={"limit": 2}).json()
    (task,) = cut["children"]
    assert ([each["name"] for each in task["children"]], cut["left_out"]) == (["agent:Clerk"], 1)
    place = {"at": task["children"][0]["path"], "limit": 1}
    inside = client.get(f"runs/{run_id}/tree", params=place).json()
    assert ([each["name"] for each in inside["children"]], inside["left_out"]) == (["llm"], 0)
    for wrong, status in (({"at": "nothing"}, 404), ({"limit": 0}, 422), ({"limit": 10**6}, 422)):
        assert client.get(f"runs/{run_id}/tree", params=wrong).status_code == status
    assert client.get(f"runs/{run_id}/result").json()["result"]["raw"] == "Done: otters"
    assert client.get(f"runs/{run_id}/cost").json()["tokens"]["requests"] == 1
    page = client.get("runs", params={"definition": clerks.crew_name, "limit": 1}).json()
    assert [each["run_id"] for each in page["runs"]] == [run_id]
    assert page["cursor"] is None


def test_pages(control: Control) -> None:
    clerks = crew()
    client = client_of(control, clerks)
    ids = [unique("run") for _ in range(3)]
    for run_id in ids:
        client.post("runs", json={"inputs": {"topic": "otters"}, "run_id": run_id})
        ended(client, run_id)
    seen, cursor = [], None
    while len(seen) < 4:
        wanted = {"definition": clerks.crew_name, "limit": 2, "state": "done"}
        page = client.get("runs", params=wanted | ({"cursor": cursor} if cursor else {})).json()
        seen += [run["run_id"] for run in page["runs"]]
        if (cursor := page["cursor"]) is None:
            break
    assert sorted(seen) == sorted(ids)
    for wanted in (
        {"limit": 0},
        {"limit": 100_000},
        {"cursor": "no"},
        {"state": "no"},
        {"kind": "no"},
        {"since": "no"},
        {"definition": "\0"},
    ):
        response = client.get("runs", params=wanted)
        assert response.status_code == 422, wanted
        assert response.headers["content-type"] == "application/problem+json"


def read(text: str) -> list[tuple[int, str]]:
    """Number and type of each event in a stream."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if lines.get("id"):
            data = json.loads(lines["data"])
            assert (data["seq"], data["type"]) == (int(lines["id"]), lines["event"])
            found.append((data["seq"], data["type"]))
    return found


def test_events_go_on_where_a_reader_was(control: Control) -> None:
    clerks, run_id = crew(send), unique("run")
    client = client_of(control, clerks)
    client.post("runs", json={"inputs": {"topic": "otters"}, "run_id": run_id})
    response = client.get(f"runs/{run_id}/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    events = read(response.text)
    assert [(e.seq, e.type) for e in control.events(run_id)] == events
    assert response.text.endswith("event: end\ndata: {}\n\n")
    for seen in (events[0][0], events[3][0], events[-1][0]):
        rest = [event for event in events if event[0] > seen]
        header = {"Last-Event-ID": str(seen)}
        assert read(client.get(f"runs/{run_id}/events", headers=header).text) == rest
        # A browser that goes on asks with the address of its first time.
        went_on = client.get(f"runs/{run_id}/events", params={"after": 1}, headers=header)
        assert read(went_on.text) == rest
        assert read(client.get(f"runs/{run_id}/events", params={"after": seen}).text) == rest
    for bad in ("x", "-1", "9" * 400, "\u0661"):
        header = {"Last-Event-ID": bad.encode()}  # type: ignore[dict-item]
        assert client.get(f"runs/{run_id}/events", headers=header).status_code == 422
    assert client.get("runs/nobody/events").status_code == 404


def test_cancel_resume_and_fork(control: Control) -> None:
    clerks, run_id = approved(), unique("run")
    client = client_of(control, clerks)
    client.post("runs", json={"inputs": {"topic": "otters"}, "run_id": run_id})
    until(lambda: client.get(f"runs/{run_id}").json()["state"] == "waiting")
    assert client.post(f"runs/{run_id}/resume").status_code == 409
    body = {"reason": "It is off.", "by": "ann"}
    assert client.post(f"runs/{run_id}/cancel", json=body).status_code == 204
    run = client.get(f"runs/{run_id}").json()
    assert (run["state"], run["reason"]) == ("cancelled", "by ann: It is off.")
    assert client.post(f"runs/{run_id}/cancel").status_code == 409
    assert client.post(f"runs/{run_id}/resume", json={"timeout": 600}).status_code == 204
    until(lambda: client.get(f"runs/{run_id}").json()["state"] == "waiting")
    (asked,) = client.get("requests", params={"run_id": run_id}).json()["requests"]
    client.post(f"requests/{asked['request_id']}/answer", json={"is": "approve"})
    assert ended(client, run_id)["state"] == "done"
    assert client.post(f"runs/{run_id}/fork", json={"at": "task:nine"}).status_code == 422
    assert client.post(f"runs/{run_id}/fork", json={"at": []}).status_code == 422
    places = client.post(f"runs/{run_id}/fork", json={"at": ["task:job", "end"]})
    assert places.status_code == 202, places.text
    status = DBOS.get_workflow_status(places.json()["run_id"])
    assert status is not None
    assert (status.attributes or {})["crewai_dbos_fork"]["at"] == ["task:job", "end"]
    client.post(f"runs/{places.json()['run_id']}/cancel")
    edit = {"edit": {"task:job": "Another line."}, "by": "ann"}
    fork = client.post(f"runs/{run_id}/fork", json=edit)
    assert fork.status_code == 202
    once, forks = {"Idempotency-Key": unique("fork")}, f"runs/{run_id}/fork"
    for sent, headers in ((edit, once), ({**edit, "run_id": once["Idempotency-Key"]}, {})):
        again = client.post(forks, json=sent, headers=headers)
        assert (again.status_code, again.json()) == (202, {"run_id": once["Idempotency-Key"]})
    assert client.post(forks, json={**edit, "run_id": run_id}).status_code == 409
    assert client.post(forks, json={"run_id": "x"}, headers=once).status_code == 422
    made = ended(client, fork.json()["run_id"])
    assert (made["state"], made["forked_from"]) == ("done", run_id)
    result = client.get(f"runs/{made['run_id']}/result").json()
    assert result["result"]["raw"] == "Another line."
    content = control.content_of(made["run_id"], _edited(made["run_id"]))
    assert content is not None
    assert (content.result, content.edited_by) == ("Another line.", "ann")
    DBOS.get_workflow_status(run_id)


def _edited(run_id: str) -> str:
    names = [step["function_name"] for step in DBOS.list_workflow_steps(run_id)]
    return next(name for name in names if name.endswith("/edited#1"))


@pytest.mark.parametrize("end", ["/1", "\n1", " \n"])
def test_ids_with_slashes_and_line_breaks(control: Control, end: str) -> None:
    clerks, run_id = crew(), f"{unique('batch')}{end}"
    client, path = client_of(control, clerks), quote(run_id)
    client.post("runs", json={"inputs": {"topic": "otters"}, "run_id": run_id})
    assert ended(client, path)["run_id"] == run_id
    assert client.get(f"runs/{path}/tree").json()["run_id"] == run_id
    assert client.get(f"status/{path}").json()["status"] == "completed"
    # The beginning of an id is none.
    assert client.get(f"runs/{quote(run_id[:-2])}").status_code == 404
    assert client.post(f"runs/{quote(run_id[:-2])}/cancel").status_code == 404


class Ticket(BaseModel):
    number: int = 7


class Letters(Flow[Ticket]):
    @start()
    def write(self) -> str:
        return f"About {self.state.number}"


def test_several_definitions(control: Control) -> None:
    clerks = crew()
    letters = DBOSFlow(flow_name=unique("letters"), orig_flow=Letters)
    client = client_of(control, clerks, letters)
    assert client.get("inputs").status_code == 422
    assert client.post("runs", json={"inputs": {"topic": "otters"}}).status_code == 422
    assert client.get("inputs", params={"definition": letters.flow_name}).json() == {
        "inputs": ["number"]
    }
    assert client.get("inputs", params={"definition": "nobody"}).status_code == 404
    begun = client.post("runs", json={"definition": letters.flow_name, "inputs": {"number": 8}})
    run = ended(client, begun.json()["run_id"])
    assert client.get(f"runs/{run['run_id']}/result").json()["result"] == "About 8"


def test_inputs_that_are_missing_begin_nothing(control: Control, model: Serve) -> None:
    server, clerks = model(), crew()
    client, run_id = client_of(control, clerks), unique("run")
    body = {"inputs": {"tpoic": "otters"}, "run_id": run_id}
    response = client.post("runs", json=body)
    assert response.status_code == 422
    assert response.json()["missing_inputs"] == ["topic"]
    assert client.get(f"runs/{run_id}").status_code == 404
    assert not any("tpoic" in str(request.body) for request in server.requests)


def test_without_definitions_nothing_is_kicked_off(control: Control) -> None:
    client = client_of(control)
    for response in (
        client.get("inputs"),
        client.post("runs", json={"inputs": {}}),
        client.post("kickoff", json={"inputs": {}}),
    ):
        assert response.status_code == 501
        assert "definitions=[...]" in response.json()["detail"]


def test_what_a_router_is_not_made_of(control: Control) -> None:
    clerks = crew()
    for given in ({"definitions": ["research"]}, {"definitions": [clerks, clerks]}):
        with pytest.raises(DefinitionError):
            router(control, tokens=[TOKEN], **given)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="Control"):
        router("sqlite:///x", tokens=[TOKEN])  # type: ignore[arg-type]


class Stuck:
    """A definition whose kickoff does not come back, as DBOS while its database is away."""

    crew_name = "stuck"
    before_kickoff_callbacks = (print,)

    def __init__(self) -> None:
        self.goes_on = threading.Event()

    def fetch_inputs(self) -> set[str]:
        return set()

    def start(self, inputs: Any, queue: Any) -> Any:
        assert self.goes_on.wait(60)
        raise ValueError


def test_a_kickoff_that_does_not_come_back(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offered, "PATIENCE", 0.1)
    monkeypatch.setattr(offered, "AT_ONCE", 2)
    stuck = Stuck()
    client = client_of(control, stuck)
    for _ in range(4):
        begun = client.post("runs", json={"inputs": {}})
        assert begun.status_code == 503
        assert "run_id" in begun.json()["detail"]
    assert client.get("runs").status_code == 200
    stuck.goes_on.set()


def test_half_a_character(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    client, run_id = client_of(control, crew()), unique("run")
    client.post("runs", json={"inputs": {"topic": "otters"}, "run_id": run_id})
    ended(client, run_id)
    bad = {"raw": "a\ud800", "list": ["\udfff"]}
    monkeypatch.setattr(Control, "result_of", lambda *_: bad)
    result = client.get(f"runs/{run_id}/result").json()["result"]
    assert result == {"raw": "a\ufffd", "list": ["\ufffd"]}
    assert client.get(f"status/{run_id}").json()["result"]["output"] == "a\ufffd"


def test_streams_are_few_and_end_without_an_end(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, run_id = client_of(control, crew()), unique("run")
    client.post("runs", json={"inputs": {"topic": "otters"}, "run_id": run_id})
    ended(client, run_id)
    where = f"runs/{run_id}/events"
    assert client.get(where).text.endswith("event: end\ndata: {}\n\n")
    with monkeypatch.context() as patch:
        patch.setattr(events, "MOST", 0)
        assert client.get(where).status_code == 503

    async def away(*_: Any, **__: Any) -> Any:
        raise OperationalError("select", {}, Exception("away"))
        yield

    monkeypatch.setattr(Control, "aevents", away)
    assert client.get(where).text == ": events\n\n"
