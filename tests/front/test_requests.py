"""Requests over HTTP: answered once, by whom may, with what fits."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from starlette.requests import Request as Received
from starlette.testclient import TestClient

from crewai_dbos.control import Control, Request, Run
from crewai_dbos.http import User
from front.conftest import approved, client_of, crew, over, refund
from people.conftest import until
from support.names import unique


def asked(client: TestClient, run_id: str) -> dict[str, Any]:
    """What a run asks, when it does."""

    def found() -> Any:
        return client.get("requests", params={"run_id": run_id}).json()["requests"]

    (request,) = until(found)
    return dict(request)


def begun(client: TestClient) -> str:
    response = client.post("runs", json={"inputs": {"topic": "otters"}})
    return str(response.json()["run_id"])


def test_the_first_answer_counts(control: Control) -> None:
    client = client_of(control, approved())
    run_id = begun(client)
    request = asked(client, run_id)
    assert request["question"]["tool"] == "send"
    assert request["question"]["schema"]["properties"]["count"]["type"] == "integer"
    path = f"requests/{request['request_id']}/answer"
    assert client.get(f"requests/{request['request_id']}").json() == request

    wrong = client.post(path, json={"is": "approve", "arguments": {"count": "many"}})
    assert wrong.status_code == 422
    assert wrong.json()["errors"] == [
        {"path": "count", "message": "'many' is not of type 'integer'"}
    ]
    for body in (
        {"is": "reply", "value": "yes"},
        {"is": "approve", "arguments": {"nobody": 1}},
        {"is": "approve", "arguments": []},
        {"is": "perhaps"},
        {"is": "reject", "why": "no"},
        {},
    ):
        assert client.post(path, json=body).status_code == 422, body
    unknown = client.post(path, json={"is": "text-of-mine"}).text
    assert "text-of-mine" not in unknown
    assert "is_" not in unknown

    body = {"is": "approve", "arguments": {"count": 3}, "by": "ann"}
    answered = client.post(path, json=body)
    assert answered.status_code == 200
    assert answered.json()["answered_by"] == "ann"
    second = client.post(path, json={"is": "reject", "by": "bob"})
    assert second.status_code == 409
    problem = second.json()
    assert (problem["type"], problem["by"]) == ("urn:crewai-dbos:already-answered", "ann")
    assert problem["at"] == answered.json()["answered"].replace("Z", "+00:00")
    over(run_id)
    assert client.get(f"runs/{run_id}").json()["state"] == "done"
    result = client.get(f"runs/{run_id}/result").json()["result"]
    assert "sent to ann 3 times" in result["raw"]
    assert client.get("requests", params={"run_id": run_id}).json() == {"requests": []}
    every = client.get("requests", params={"run_id": run_id, "only_open": False}).json()
    assert len(every["requests"]) == 1


def test_too_late(control: Control) -> None:
    client = client_of(control, approved(deadline=timedelta(seconds=1)))
    run_id = begun(client)
    over(run_id)
    (request,) = control.requests(run_id=run_id, only_open=False)
    assert client.get(f"runs/{run_id}").json()["state"] == "done"
    late = client.post(f"requests/{request.request_id}/answer", json={"is": "approve"})
    assert late.status_code == 410
    assert late.json()["type"] == "urn:crewai-dbos:expired"


def test_of_no_request(control: Control) -> None:
    client = client_of(control, approved())
    request = asked(client, begun(client))
    for request_id in ("nobody", request["request_id"][:6], "%00", "%ED%A0%80"):
        assert client.get(f"requests/{request_id}").status_code == 404
        path = f"requests/{request_id}/answer"
        assert client.post(path, json={"is": "approve"}).status_code == 404
    client.post(f"runs/{request['run_id']}/cancel")
    gone = client.post(f"requests/{request['request_id']}/answer", json={"is": "approve"})
    assert gone.status_code == 410


USERS = {"ann": User("ann", {"support"}), "bob": User("bob", {"books"}), "eve": User("eve")}


async def who(request: Received) -> User | None:
    return USERS.get(request.headers.get("x-user", ""))


def as_(name: str) -> dict[str, str]:
    return {"X-User": name}


def test_a_request_is_for_its_audience(control: Control) -> None:
    client = client_of(control, crew(refund), who=who)
    run_id = client.post("runs", json={"inputs": {"topic": "otters"}}, headers=as_("ann")).json()[
        "run_id"
    ]
    (request,) = until(
        lambda: client.get("requests", params={"run_id": run_id}, headers=as_("bob")).json()[
            "requests"
        ]
    )
    path = f"requests/{request['request_id']}"
    assert client.get("requests", params={"run_id": run_id}, headers=as_("ann")).json() == {
        "requests": []
    }
    assert client.get(path, headers=as_("ann")).status_code == 404
    body = {"is": "reply", "value": {"number": 4711}, "by": "carl"}
    assert client.post(f"{path}/answer", json=body, headers=as_("ann")).status_code == 404
    assert client.post(f"{path}/answer", json=body).status_code == 401
    wrong = {"is": "reply", "value": {"number": "x"}}
    assert client.post(f"{path}/answer", json=wrong, headers=as_("bob")).status_code == 422
    answered = client.post(f"{path}/answer", json=body, headers=as_("bob"))
    assert answered.json()["answered_by"] == "bob"  # and not whom he names
    over(run_id)
    assert client.get(f"runs/{run_id}", headers=as_("ann")).json()["state"] == "done"


def test_nobody_edits_what_is_for_others_to_decide(control: Control) -> None:
    client = client_of(control, approved(audience="books"), who=who)
    body = {"inputs": {"topic": "otters"}}
    run_id = client.post("runs", json=body, headers=as_("ann")).json()["run_id"]
    (request,) = until(
        lambda: client.get("requests", params={"run_id": run_id}, headers=as_("bob")).json()[
            "requests"
        ]
    )
    answer = f"requests/{request['request_id']}/answer"
    client.post(answer, json={"is": "reject", "reason": "no!"}, headers=as_("bob"))
    over(run_id)
    # Forked by somebody who may not answer it, the decision stays, and so in a fork of the fork.
    kept = client.post(f"runs/{run_id}/fork", json={"at": "llm#2"}, headers=as_("ann")).json()
    over(kept["run_id"])
    path = request["path"]
    for forked in (run_id, kept["run_id"]):
        for place in (path, "/".join(path.split("/")[-2:]), "task:job"):
            edit = {"edit": {place: {"is": "approve"}}}
            refused = client.post(f"runs/{forked}/fork", json=edit, headers=as_("ann"))
            assert refused.status_code == 403, (place, refused.text)
    edit = {"edit": {path: {"is": "approve"}}}
    for name, forked in (("bob", run_id), ("eve", kept["run_id"])):
        made = client.post(f"runs/{forked}/fork", json=edit, headers=as_(name))
        assert made.status_code == 202
        fork_id = made.json()["run_id"]
        over(fork_id)
        assert "sent to ann" in control.result_of(fork_id)["raw"]


def test_who_may_what(control: Control) -> None:
    clerks = approved()

    async def may(user: User, action: str, about: Run | Request | str) -> bool:
        if user.name == "eve":
            return action == "see"
        return user.name == "ann"

    client = client_of(control, clerks, who=who, may=may)
    body = {"inputs": {"topic": "otters"}}
    for name in ("bob", "eve"):
        assert client.post("runs", json=body, headers=as_(name)).status_code == 404
    run_id = client.post("runs", json=body, headers=as_("ann")).json()["run_id"]
    wanted = {"definition": clerks.crew_name}
    assert len(client.get("runs", params=wanted, headers=as_("eve")).json()["runs"]) == 1
    assert client.get("runs", params=wanted, headers=as_("bob")).json()["runs"] == []
    (request,) = until(
        lambda: client.get("requests", params={"run_id": run_id}, headers=as_("eve")).json()[
            "requests"
        ]
    )
    answer = f"requests/{request['request_id']}/answer"
    for path, sent in (
        (f"runs/{run_id}/cancel", {}),
        (f"runs/{run_id}/resume", {}),
        (f"runs/{run_id}/fork", {}),
        (answer, {"is": "approve"}),
    ):
        assert client.post(path, json=sent, headers=as_("eve")).status_code == 403, path
        assert client.post(path, json=sent, headers=as_("bob")).status_code == 404, path
    for path in ("", "/tree", "/result", "/cost", "/events"):
        assert client.get(f"runs/{run_id}{path}", headers=as_("bob")).status_code == 404
    assert client.get(f"status/{run_id}", headers=as_("bob")).status_code == 404
    assert client.post(answer, json={"is": "approve"}, headers=as_("ann")).status_code == 200


def test_what_somebody_may_not_see_is_not_there(control: Control) -> None:
    """Not in a cursor, by the beginning of an id, or in a list of definitions."""
    public, merger = crew(), crew()
    seen = {public.crew_name}

    def may(user: User, action: str, about: Run | Request | str) -> bool:
        if user.name == "eve":
            return True
        name = about if isinstance(about, str) else getattr(about, "definition", None)
        return name in seen

    client = client_of(control, public, merger, who=who, may=may)
    ann, eve, begins = as_("ann"), as_("eve"), unique("zz")
    for number, name in enumerate([public, merger, merger, public]):
        body = {"definition": name.crew_name, "inputs": {"topic": "otters"}}
        body["run_id"] = f"{begins}-{number}"
        assert client.post("runs", json=body, headers=eve).status_code == 202
        over(body["run_id"])

    found, texts, cursor = [], "", None
    for _ in range(4):
        wanted = {"limit": 1} | ({"cursor": cursor} if cursor else {})
        page = client.get("runs", params=wanted, headers=ann)
        found += [run["run_id"] for run in page.json()["runs"]]
        texts, cursor = texts + page.text, page.json()["cursor"]
    assert found == [f"{begins}-3", f"{begins}-0"]
    assert f"{begins}-1" not in texts
    assert f"{begins}-2" not in texts
    assert client.get("runs", params={"cursor": f"{cursor}~x"}, headers=ann).status_code in (
        200,
        422,
    )

    problems = [client.get(f"runs/{id}", headers=ann).json() for id in (begins, "yy")]
    assert problems[0]["detail"].replace(begins, "yy") == problems[1]["detail"]
    sent = {"inputs": {"topic": "seals"}}
    for definition in ({"definition": "nope"}, {"definition": merger.crew_name}):
        refused = client.post("runs", json={**sent, **definition}, headers=ann)
        assert refused.status_code == 404
        assert merger.crew_name not in refused.text.replace(f"'{merger.crew_name}'", "", 1)
    assert client.post("runs", json=sent, headers=ann).status_code == 202  # there is only one
    taken = [
        client.post("runs", json={"inputs": {"topic": t}, "run_id": f"{begins}-1"}, headers=ann)
        for t in ("otters", "seals")
    ]
    assert [each.status_code for each in taken] == [409, 409]
    assert merger.crew_name not in taken[0].text + taken[1].text
    seen.clear()
    nothing = client.post("runs", json=sent, headers=ann)
    assert (nothing.status_code, "definitions" in nothing.json()) == (404, False)
    assert public.crew_name not in nothing.text


def test_every_request_can_be_reached(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page, and whatever others are asked before."""
    audience = unique("books")
    users = {"ann": User("ann", {audience}), "eve": User("eve")}
    client = client_of(
        control,
        approved(audience=unique("support")),
        approved(audience=audience),
        who=lambda request: users.get(request.headers["x-user"]),
    )
    names = client.post("runs", json={"inputs": {}}, headers=as_("eve")).json()["definitions"]
    ids = []
    for name in (names[0], names[0], names[1], names[1], names[1]):
        body = {"definition": name, "inputs": {"topic": "otters"}}
        run_id = client.post("runs", json=body, headers=as_("eve")).json()["run_id"]
        (request,) = until(lambda run_id=run_id: control.requests(run_id=run_id))
        ids.append(request.request_id)
    found: list[str] = []
    asked = count_of_reads(control, monkeypatch)
    while not {*ids[2:]} <= {*found}:  # others before are for anybody
        wanted = {"limit": 1} | ({"after": found[-1]} if found else {})
        page = client.get("requests", params=wanted, headers=as_("ann")).json()["requests"]
        assert page
        assert page[0]["request_id"] not in found
        found += [each["request_id"] for each in page]
    assert len({*found}) == len(found)
    assert {*ids[:2]}.isdisjoint(found)
    assert max(asked) == 1  # no more is read than is shown
    last = {"after": found[-1]}
    assert client.get("requests", params=last, headers=as_("ann")).json() == {"requests": []}
    for after in (ids[0], "nobody", "\0"):
        refused = client.get("requests", params={"after": after}, headers=as_("ann"))
        assert refused.status_code == 404, after


def count_of_reads(control: Control, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests are read at a time from now on."""
    counts: list[int] = []
    read = control.requests

    def counted(**wanted: Any) -> Any:
        found = read(**wanted)
        counts.append(len(found))
        return found

    monkeypatch.setattr(control, "requests", counted)
    return counts
