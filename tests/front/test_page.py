"""The page, in a browser without JavaScript: looking, answering, stopping, forking, its door."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from crewai import LLM
from crewai.flow.flow import Flow, start
from crewai.tools import tool
from dbos import SetWorkflowID
from fastapi import FastAPI
from starlette.requests import Request as Received
from starlette.testclient import TestClient

from crewai_dbos import DBOSCrew, DBOSFlow, People
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._events.event import RUN_PARKED
from crewai_dbos._fleet.leases import Holder, Leases
from crewai_dbos._http.timeline import timeline
from crewai_dbos._requests.table import requests
from crewai_dbos._stored.handed_on import HandedOn
from crewai_dbos.control import Approve, Control, Node, Reply, Request
from crewai_dbos.http import User, application, page
from crewai_dbos.testing import ToolCall, structured, text, tool_calls
from front.conftest import TOKEN, Account, approved, crew, over, refund
from front.html import Page
from front.tools import SENT, mail
from people.conftest import until
from support.names import unique
from support.serving import Serve


def browser(control: Control, prefix: str = "", **options: Any) -> TestClient:
    app = FastAPI()
    options = options or {"local_only": True}
    app.include_router(page(control, **options), prefix=prefix)
    return TestClient(
        app,
        base_url="http://localhost",
        client=("127.0.0.1", 50000),
        raise_server_exceptions=False,
    )


def look(client: TestClient, path: str, status: int = 200) -> Page:
    response = client.get(path)
    assert response.status_code == status, response.text
    return Page(response.text)


def cookie(client: TestClient, what: str) -> str:
    """The name of a cookie that a page has set: of the session, or for forms."""
    (found,) = [name for name in client.cookies if name.startswith(f"crewai_dbos_{what}")]
    return found


def begun(definition: DBOSCrew, topic: str = "otters") -> str:
    run_id = unique("run")
    with SetWorkflowID(run_id):
        definition.start({"topic": topic})
    return run_id


def asked(control: Control, run_id: str) -> Request:
    (request,) = until(lambda: control.requests(run_id=run_id))
    return request


def in_state(control: Control, run_id: str, state: str) -> None:
    if state == "done":
        over(run_id)
    until(lambda: control.run(run_id).state == state)


def test_runs_are_listed_and_found(control: Control) -> None:
    clerks, client = crew(), browser(control)
    run_id = begun(clerks)
    in_state(control, run_id, "done")
    for path in ("", f"?definition={clerks.crew_name}", f"?text={run_id[:-2]}&state=done&since=1h"):
        assert run_id in look(client, f"/{path}").text
    for path in ("?definition=nobody", f"?text={run_id}&state=failed", "?text=nothing+like+it"):
        assert run_id not in look(client, f"/{path}").text
    for path in ("?state=no", "?since=no", "?cursor=no", "?text=%00"):
        look(client, f"/{path}", 422)


def test_one_run_as_a_tree(control: Control) -> None:
    clerks, client = crew(), browser(control)
    run_id = begun(clerks)
    in_state(control, run_id, "done")
    seen = look(client, f"/run/{run_id}")
    for part in ("task:1.job", "agent:Clerk", "llm", "topic", "Done: otters"):
        assert part in seen.text
    bars = [given for tag, given in seen.tags if tag == "rect" and "bar" in given["class"]]
    assert len(bars) == 3
    (path,) = control.costs_of(run_id)
    call = look(client, f"/run/{run_id}?at={path.replace('#', '%23')}")
    assert "What the model answered" in call.text
    assert "What a call was given is not stored" in call.text
    look(client, "/run/nobody", 404)
    look(client, f"/run/{run_id[:-2]}", 404)


def test_when_it_was_queued_and_from_whom_it_was_taken_over(control: Control) -> None:
    clerks, client = crew(), browser(control)
    run_id = begun(clerks)
    in_state(control, run_id, "done")
    seen = look(client, f"/run/{run_id}").text
    assert "started " in seen
    assert "queued " not in seen
    assert "taken over" not in seen
    runs = launched_database().runs
    taken = HandedOn("host:1:abc", 2**41).as_attributes()
    changed = {"queue_name": "mails", "created_at": runs.c.created_at - 60_000}
    with launched_database().writing() as connection:
        mine = sa.update(runs).where(runs.c.workflow_uuid == run_id)
        connection.execute(mine.values(attributes=taken, **changed))
    seen = look(client, f"/run/{run_id}").text
    for part in ("queued ", "started ", "taken over from host:1:abc "):
        assert part in seen


def test_a_large_run_is_looked_into(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies deep is counted, and shown on an axis of its own."""
    clerks, client = crew(), browser(control)
    run_id = begun(clerks)
    in_state(control, run_id, "done")
    task = control.run(run_id).children[0]
    monkeypatch.setattr("crewai_dbos._http.timeline.FEW", 2)
    whole = look(client, f"/run/{run_id}")
    assert "1 inside" in whole.text
    assert [path for path in links(whole) if "llm" in path] == []
    (inside,) = [path for path in links(whole) if "?in=" in path]
    part = look(client, inside)
    (llm,) = [path for path in links(part) if "llm" in path]
    assert "All of the run" in part.text
    call = look(client, llm)
    assert "What the model answered" in call.text
    assert inside in links(call)  # where one gets back to
    monkeypatch.setattr("crewai_dbos._http.timeline.FEW", 1)
    assert "2 inside" in look(client, f"/run/{run_id}").text
    # What is looked into shows what is in it, however much that is.
    assert "agent:Clerk" in look(client, f"/run/{run_id}?in={quote(task.path)}").text
    look(client, f"/run/{run_id}?in=nothing", 404)


def links(page: Page) -> list[str]:
    return [given["href"] for tag, given in page.tags if tag == "a"]


def test_a_page_follows_what_it_does_not_show(control: Control) -> None:
    client, run_id = browser(control), begun(approved())
    asked(control, run_id)
    # What happens while it is left to its row comes before what is shown.
    until(lambda: [event.type for event in control.events(run_id)][-1:] == [RUN_PARKED])
    shown = look(client, f"/run/{run_id}")
    (where,) = [given["data-events"] for _, given in shown.tags if "data-events" in given]
    address, _, last = where.partition("?after=")
    assert address == f"/events/{run_id}"
    assert 0 < int(last) <= control.last_event(run_id)
    control.cancel(run_id)
    numbers = re.findall(r"^id: (\d+)$", client.get(where).text, re.MULTILINE)
    assert numbers == [str(event.seq) for event in control.events(run_id, int(last))]
    assert numbers[0] == str(int(last) + 1)
    assert client.get(f"/events/{run_id}?after=x").status_code == 422


def test_a_run_that_waits_says_for_what(control: Control) -> None:
    client, run_id = browser(control), begun(crew(refund))
    request = asked(control, run_id)
    in_state(control, run_id, "waiting")
    seen = look(client, f"/?text={run_id}")
    assert request.question.message in seen.text
    assert f"/request/{request.request_id}" in links(seen)


def test_a_run_whose_request_is_gone_hides_no_other(control: Control) -> None:
    client, run_id = browser(control), begun(approved())
    request = asked(control, run_id)
    until(lambda: control.status_of(run_id) == "DELAYED")
    database = launched_database()
    table = requests(database.schema)
    with database.writing() as connection:
        connection.execute(sa.delete(table).where(table.c.request_id == request.request_id))
    assert "is not there any more" in look(client, f"/?text={run_id}").text
    assert control.run(run_id).state == "waiting"
    control.cancel(run_id)
    control.resume(run_id)
    again = asked(control, run_id)
    control.answer(again.request_id, Approve())
    in_state(control, run_id, "done")


class Books(Flow[Any]):
    @start()
    def look(self) -> int:
        found: Any = LLM(model="gpt-4o-mini").call("Which account?", response_model=Account)
        return int(found.number)


def test_answers_of_models_are_read_and_edited(control: Control, model: Serve) -> None:
    """Arguments of tools as what they are; fields of a model as JSON."""
    arguments = {"to": "Ann", "body": "Dear Ann,\nyours."}
    model(lambda r: text("Done.") if r.tool_results else tool_calls(ToolCall("mail", arguments)))
    client, run_id = browser(control), begun(crew(mail))
    in_state(control, run_id, "done")
    calls = [node for node in every(control.run(run_id).children) if node.kind == "llm"]
    call = look(client, f"/run/{run_id}?at={quote(calls[0].path, safe='')}")
    assert '"tool": "mail"' in call.text
    assert '"to": "Ann"' in call.text
    # What both buttons do in the world stands above them.
    assert "Made again: 2 LLM requests, tool mail. Their effects happen again." in call.text
    assert "Nothing that is recorded is made again." not in call.text
    form = call.form("Fork with this result")
    assert form.fields["result"] == ""  # these calls are no text, and a text is asked for
    made = form.send(client, "Fork with this result", result="Nobody is written to.")
    fork_id = made.url.path.rpartition("/")[2]
    in_state(control, fork_id, "done")
    assert control.result_of(fork_id)["raw"] == "Nobody is written to."

    model(lambda _: structured({"number": 7}))
    run_id = unique("run")
    with SetWorkflowID(run_id):
        DBOSFlow(flow_name=unique("flow"), orig_flow=Books).start()
    in_state(control, run_id, "done")
    (llm,) = [node for node in every(control.run(run_id).children) if node.kind == "llm"]
    form = look(client, f"/run/{run_id}?at={quote(llm.path, safe='')}").form(
        "Fork with this result"
    )
    assert json.loads(form.fields["result"]) == {"number": 7}
    made = form.send(client, "Fork with this result", result='{"number": 8}')
    assert made.status_code == 200, made.text
    fork_id = made.url.path.rpartition("/")[2]
    in_state(control, fork_id, "done")
    assert control.result_of(fork_id) == 8


def test_nothing_that_a_run_holds_is_run(control: Control, model: Serve) -> None:
    bad = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'>{{ 7*7 }}"

    @tool("send")
    def send(to: str) -> str:
        """<script>alert(1)</script>"""
        return to

    def script(request: Any) -> Any:
        if request.tool_results:
            return text(bad)
        return tool_calls(ToolCall("send", {"to": bad, bad: bad}))

    model(script)
    people = People(approve_tools=["send"], audience=bad, linger=0.05)
    clerks, client = crew(send, people=people), browser(control)
    run_id = f"{unique('run')}-{bad}"
    with SetWorkflowID(run_id):
        clerks.start({"topic": bad})
    request = asked(control, run_id)
    where = f"/run/{quote(run_id, safe='')}"
    paths = ["/", f"/?text={quote(bad)}", "/requests", f"/request/{request.request_id}", where]
    for path in paths:
        check_inert(client, path)
    control.answer(request.request_id, Approve(), by=bad)
    in_state(control, run_id, "done")
    last = control.run(run_id).children[0].path
    for path in (*paths, f"{where}?at={quote(last)}", f"{where}?at={quote(bad)}"):
        check_inert(client, path)


def check_inert(client: TestClient, path: str) -> None:
    """Nothing on a page is run but our script, and a browser is told so."""
    response = client.get(path)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    seen = Page(response.text)
    scripts = [given for tag, given in seen.tags if tag == "script"]
    assert scripts == [{"src": "/static/page.js", "defer": ""}]
    for tag, given in seen.tags:
        assert tag not in ("img", "style", "iframe", "object")
        assert not [name for name in given if name.startswith("on") or name == "style"]
        for name in ("href", "src", "action"):
            assert given.get(name, "/").startswith(("/", "#")), given


def test_an_approval_with_other_arguments(control: Control, model: Serve) -> None:
    SENT.clear()
    arguments = {"to": "ann", "body": "Dear Ann,\n\nyours.", "count": 2}
    model(lambda r: text("Done.") if r.tool_results else tool_calls(ToolCall("mail", arguments)))
    clerks = crew(mail, people=People(approve_tools=["mail"], linger=0.05))
    client, run_id = browser(control), begun(clerks)
    request = asked(control, run_id)
    path = f"/request/{request.request_id}"
    assert request.question.message in look(client, "/requests").text
    seen = look(client, path)
    for part in (mail.description, "Work on otters.", "Input of the run", '"topic": "otters"'):
        assert part in seen.text
    assert "Next request" not in seen.text
    form = seen.form("Approve with these values")
    assert form.fields["field.body"] == "Dear Ann,\n\nyours."
    wrong = form.send(client, "Approve with these values", **{"field.count": "many"})
    assert wrong.status_code == 422
    again = Page(wrong.text)
    assert "count is a whole number" in again.text
    form = again.form("Approve with these values")
    assert form.fields["field.count"] == "many"  # what somebody has put in is not lost
    done = form.send(
        client,
        "Approve with these values",
        **{"field.count": "3", "field.to": "bob", "field.how": '"high"'},
    )
    assert done.status_code == 200
    assert "Answered by" in done.text
    assert f"Run {run_id} " in " ".join(Page(done.text).text.split())
    in_state(control, run_id, "done")
    # What was left as it stood is what the model had given, to the last line break.
    assert SENT == [("bob", "Dear Ann,\n\nyours.", 3, "high", False)]
    answer = control.request(request.request_id).answer
    assert answer == {"is": "approve", "arguments": {"count": 3, "to": "bob", "how": "high"}}
    second = form.send(client, "Reject", reason="No.")
    assert second.status_code == 409
    assert "was answered by" in second.text

    other = asked(control, begun(clerks, "rivers"))
    after = look(client, path)
    assert f"Run {run_id} is done." in " ".join(after.text.split())
    assert "Next request" in after.text
    links = [given.get("href") for _, given in after.tags]
    assert f"/request/{control.requests()[0].request_id}" in links
    form = look(client, f"/request/{other.request_id}").form("Reject")
    form.send(client, "Reject", reason="No.")


def test_a_rejection_a_review_and_a_question(control: Control, model: Serve) -> None:
    client = browser(control)
    run_id = begun(approved())
    request = asked(control, run_id)
    form = look(client, f"/request/{request.request_id}").form("Reject")
    assert form.send(client, "Reject", reason="Too early.").status_code == 200
    in_state(control, run_id, "done")
    assert "Too early." in look(client, f"/run/{run_id}").text

    run_id = begun(crew(refund))
    request = asked(control, run_id)
    form = look(client, f"/request/{request.request_id}").form("Reply")
    assert form.send(client, "Reply", **{"field.number": "x"}).status_code == 422
    assert form.send(client, "Reply", **{"field.number": "4711"}).status_code == 200
    in_state(control, run_id, "done")
    assert "paid to 4711" in look(client, f"/run/{run_id}").text

    model(lambda _: text("otters"))
    run_id = begun(crew(human=True))
    request = asked(control, run_id)
    seen = look(client, f"/request/{request.request_id}")
    assert "otters" in seen.text
    assert seen.form("Send feedback").send(client, "Send feedback").status_code == 422
    assert control.request(request.request_id).state == "open"
    seen.form("Send feedback").send(client, "Send feedback", reason="Longer.")
    following = until(
        lambda: [r for r in control.requests(run_id=run_id) if r.request_id != request.request_id]
    )
    form = look(client, f"/request/{following[0].request_id}").form("Approve")
    assert form.send(client, "Approve").status_code == 200
    in_state(control, run_id, "done")


def test_cancel_resume_and_fork(control: Control) -> None:
    clerks, client = approved(deadline=timedelta(days=3)), browser(control)
    run_id = begun(clerks)
    request = asked(control, run_id)
    form = look(client, f"/run/{run_id}").form("Cancel the run")
    stopped = form.send(client, "Cancel the run", reason="It is off.")
    assert "It is off." in stopped.text
    assert control.run(run_id).state == "cancelled"
    again = form.send(client, "Cancel the run")
    assert again.status_code == 409
    assert "was cancelled already" in again.text
    look(client, f"/run/{run_id}").form("Resume").send(client, "Resume")
    in_state(control, run_id, "waiting")
    form = look(client, f"/request/{request.request_id}").form("Approve with these values")
    form.send(client, "Approve with these values")
    in_state(control, run_id, "done")

    task = control.run(run_id).children[0]
    call = look(client, f"/run/{run_id}?at={task.path.replace('#', '%23')}")
    assert "Nothing that is recorded is made again." in call.text
    form = call.form("Fork with this result")
    assert form.fields["result"].startswith("Done: sent")
    made = form.send(client, "Fork with this result", result="Another line.")
    fork_id = made.url.path.rpartition("/")[2]
    assert fork_id != run_id
    in_state(control, fork_id, "done")
    assert control.result_of(fork_id)["raw"] == "Another line."
    assert run_id in look(client, f"/run/{fork_id}").text
    # It looks edited, and what stood there before is at hand; so in a fork of the fork.
    by = control.run(fork_id).children[0].edited_by
    again = control.fork(fork_id, edit={"task:1": "A third one."}, by="bob")
    in_state(control, again, "done")
    for run, whose, before in ((fork_id, by, "Done: sent"), (again, "bob", "Another line.")):
        changed = look(client, f"/run/{run}?at={task.path.replace('#', '%23')}")
        assert f"edited by {whose}" in changed.text
        assert re.search(rf"Edited by {whose},.*; before: {before}", " ".join(changed.text.split()))
    # Sent twice it is one fork; and what was typed is there if it can't be taken.
    assert form.send(client, "Fork with this result", result="Another line.").url == made.url
    assert form.send(client, "Fork with this result", result="A third one.").url != made.url
    twice = [form.send(client, "Fork, and run this call again").url.path for _ in range(2)]
    assert twice[0] == twice[1]
    assert len({run.run_id for run in control.runs() if run.forked_from == run_id}) == 3
    approval = look(client, f"/run/{run_id}?at={quote(request.path, safe='')}")
    bad = approval.form("Fork with this result")
    refused = bad.send(client, "Fork with this result", result="not JSON, typed for long")
    assert refused.status_code == 422
    kept = Page(refused.text).form("Fork with this result")
    assert kept.fields["result"] == "not JSON, typed for long"
    assert "has to be JSON" in refused.text
    del bad.fields["result"]
    assert bad.send(client, "Fork with this result").status_code == 422
    form.fields["at"] = "task:nine"
    assert form.send(client, "Fork, and run this call again").status_code == 404


def test_a_form_of_another_site_does_nothing(control: Control) -> None:
    client, run_id = browser(control), begun(approved())
    asked(control, run_id)
    data = {"do": "cancel"}
    assert client.post(f"/run/{run_id}", data=data).status_code == 403
    form = look(client, f"/run/{run_id}").form("Cancel the run")
    cookie = client.cookies["crewai_dbos_form"]
    assert form.fields["key"] == cookie
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        sent = client.post(f"/run/{run_id}", data={**data, "key": cookie}, headers=headers)
        assert sent.status_code == 403
    # A browser says of a form that it is nobody's if the page tells it to say nothing of itself.
    assert client.get(f"/run/{run_id}").headers["referrer-policy"] == "same-origin"
    nobody = {"Origin": "null", "Sec-Fetch-Site": "same-origin"}
    sent = client.post(f"/run/{run_id}", data={"do": "no", "key": cookie}, headers=nobody)
    assert sent.status_code == 422
    client.cookies.clear()
    assert client.post(f"/run/{run_id}", data={**data, "key": cookie}).status_code == 403
    client.cookies.set("crewai_dbos_form", "x" * 43)
    assert client.post(f"/run/{run_id}", data={**data, "key": cookie}).status_code == 403
    assert client.get(f"/run/{run_id}?do=cancel").status_code == 200
    assert control.run(run_id).state == "waiting"


def test_what_was_typed_stays(control: Control) -> None:
    """In a form that is old, has what can't be stored, or comes when nobody is logged in."""
    client, run_id = browser(control, prefix="/desk", tokens=[TOKEN]), begun(approved())
    request = asked(control, run_id)
    where = f"/desk/request/{request.request_id}"
    login = look(client, where).form("Log in")
    wrong = Page(login.send(client, "Log in", token="wrong", name="ann").text).form("Log in")
    assert wrong.fields["name"] == "ann"
    back = wrong.send(client, "Log in", token=TOKEN)
    assert back.url.path == where  # and not the list of runs
    cookies = [
        h for h in client.get(where).headers.get_list("set-cookie") if "crewai_dbos_form" in h
    ]
    # It goes with a link of a mail, too, and lasts from each answer on.
    assert "SameSite=lax" in cookies[0]
    assert "Path=/desk" in cookies[0]
    form = Page(back.text).form("Reject")
    for name, value in (("key", "old"), ("reason", "nul\0")):
        changed = {"reason": "typed for long", name: value}
        refused = form.send(client, "Reject", **changed)
        assert refused.status_code in (403, 422)
        assert changed["reason"].rstrip("\0") in refused.text
        assert control.request(request.request_id).state == "open"
    cancel = look(client, f"/desk/run/{run_id}").form("Cancel the run")
    cancel.fields["key"] = "old"
    refused = cancel.send(client, "Cancel the run", reason="typed for long")
    assert refused.status_code == 403
    assert Page(refused.text).form("Cancel the run").fields["reason"] == "typed for long"
    client.cookies.delete(cookie(client, "session"))
    refused = form.send(client, "Reject", reason="typed for long")
    assert refused.status_code == 401
    assert "typed for long" in refused.text
    again = Page(refused.text).form("Log in").send(client, "Log in", token=TOKEN, name="ann")
    assert again.url.path == where
    for elsewhere in ("//evil.example", "https://evil.example", "/\\evil.example", "/\t/e", "x"):
        login = look(client, "/desk/login").form("Log in")
        login.fields["next"] = elsewhere
        sent = login.send(client, "Log in", token=TOKEN, name="ann")
        assert sent.history[0].headers["location"] == "/desk/", elsewhere
    assert browser(control).get("/login").status_code == 404  # where there is no token


class Counted(dict[str, Any]):
    """A dictionary that counts how often it is gone through."""

    times = 0

    def items(self) -> Any:
        self.times += 1
        return super().items()


def test_a_large_run_costs_one_look_at_each_call(control: Control) -> None:
    run_id = begun(crew())
    in_state(control, run_id, "done")
    run = control.run(run_id)
    (llm,) = [node for node in every(run.children) if node.kind == "llm"]
    calls = [replace(llm, path=f"a/b#{n}", children=()) for n in range(6000)]
    costs = Counted.fromkeys((each.path for each in calls), control.cost_of(run_id))
    whole = replace(llm, path="a", children=tuple(calls))
    seen = timeline(replace(run, children=(whole,)), costs)
    assert costs.times == 1
    assert [(row.node.path, row.inside) for row in seen.rows] == [("a", 6000)]
    seen = timeline(replace(run, children=(whole,)), costs, whole)
    assert (len(seen.rows), seen.count) == (1000, 6001)
    assert seen.rows[0].usd == pytest.approx(6000 * (control.cost_of(run_id).usd or 0))
    assert seen.rows[1].usd == control.cost_of(run_id).usd


def every(nodes: tuple[Node, ...]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from every(node.children)


def test_people_log_in_with_the_token(control: Control) -> None:
    run_id = begun(approved())
    request = asked(control, run_id)
    client = browser(control, prefix="/desk", tokens=["an-older-token-of-some-length", TOKEN])
    seen = look(client, "/desk/")
    form = seen.form("Log in")
    assert form.action == "/desk/login"
    for token, name in (("", "ann"), (TOKEN[:-1], "ann"), (TOKEN, "")):
        refused = form.send(client, "Log in", token=token, name=name)
        assert refused.status_code == 403
        assert not [name for name in client.cookies if "session" in name]
    cookies = form.send(client, "Log in", token=TOKEN, name="ann").history[0].headers
    session = next(c for c in cookies.get_list("set-cookie") if "session" in c)
    assert "HttpOnly" in session
    assert "SameSite=lax" in session
    assert TOKEN not in session
    approve = "Approve with these values"
    look(client, f"/desk/request/{request.request_id}").form(approve).send(client, approve)
    assert control.request(request.request_id).answered_by == "ann"

    name = cookie(client, "session")
    value = client.cookies[name]
    content, _, signature = value.partition(".")
    client.cookies.clear()
    for forged in (f"{content}.{'0' * 64}", f"x{content}.{signature}", ".", content, "é.é"):
        sent = client.get("/desk/", headers={"Cookie": f"{name}={forged}".encode()})
        assert "Log in" in sent.text, forged
    # Where the token is not one any more, nobody is in with it.
    other = browser(control, prefix="/desk", tokens=["another-token-of-some-length"])
    other.cookies.set(name, value)
    assert "Log in" in other.get("/desk/").text
    client.cookies.set(name, value)
    assert "ann" in look(client, "/desk/").text
    left = look(client, "/desk/").form("Log out").send(client, "Log out").history[0]
    assert left.headers["location"] == "/desk/login"
    assert f'{name}=""; expires=' in left.headers["set-cookie"]


def test_users_of_the_application(control: Control) -> None:
    async def who(request: Received) -> User | None:
        name = request.headers.get("x-user")
        return None if name is None else User(name, {"support"})

    client = browser(control, who=who)
    run_id = begun(crew(refund))
    request = asked(control, run_id)  # for books
    assert client.get("/").status_code == 401
    ann = {"X-User": "ann"}
    assert client.get(f"/request/{request.request_id}", headers=ann).status_code == 404
    seen = client.get(f"/run/{run_id}", headers=ann)
    assert seen.status_code == 200
    assert request.question.message not in seen.text
    control.answer(request.request_id, Reply({"number": 4711}), by="bob")
    in_state(control, run_id, "done")
    where = f"/run/{run_id}?at={quote(request.path, safe='')}"
    call = client.get(where, headers=ann).text.partition('id="call"')[2].partition("</section>")[0]
    assert "is for others" in call
    assert "4711" not in call
    assert "4711" in browser(control).get(where).text.partition('id="call"')[2].partition("</se")[0]


def test_every_page_is_behind_the_door(control: Control) -> None:
    made = page(control, tokens=[TOKEN])
    routes = {(method, route.path) for route in made.routes for method in route.methods}  # type: ignore[attr-defined]
    routes -= {("GET", "/login"), ("POST", "/login"), ("GET", "/static/{name}")}
    assert len(routes) == 9
    client = browser(control, tokens=[TOKEN])
    for method, path in routes:
        where = re.sub(r"\{.*\}", "x", path)
        sent = client.request(method, where, follow_redirects=False)
        assert sent.status_code == (303 if method == "GET" else 401), (method, path)
        assert "crewai_dbos_session" not in sent.headers.get("set-cookie", "")


def test_two_pages_in_one_application(control: Control) -> None:
    tokens, app = {"/desk": TOKEN, "/in/admin": "another-token-of-24-chars"}, FastAPI()
    inner = FastAPI()
    inner.include_router(page(control, tokens=[tokens["/in/admin"]]), prefix="/admin")
    app.include_router(page(control, tokens=[TOKEN]), prefix="/desk")
    app.mount("/in", inner)
    client = TestClient(app, base_url="http://localhost")
    for prefix, token in tokens.items():
        form = Page(client.get(f"{prefix}/workers").text).form("Log in")
        assert form.action.partition("?")[0] == f"{prefix}/login"
        form.send(client, "Log in", token=token, name="ann")
    for prefix in tokens:  # the second login has not ended the first
        seen = look(client, f"{prefix}/")
        assert "Log out" in seen.text
        links = [given["href"] for tag, given in seen.tags if tag in ("a", "link")]
        assert all(link.startswith((prefix, "#")) for link in links), links


def test_behind_a_proxy_that_rewrites_host(control: Control) -> None:
    client = browser(control, tokens=[TOKEN])
    form = Page(client.get("/login").text).form("Log in")
    data = {**form.fields, "name": "ann", "token": TOKEN}
    for site, status in (("same-origin", 303), ("cross-site", 403), ("same-site", 403)):
        headers = {"Origin": "https://desk.example.com", "Sec-Fetch-Site": site}
        sent = client.post("/login", data=data, headers=headers, follow_redirects=False)
        assert sent.status_code == status, site


def test_the_whole_application(control: Control) -> None:
    app = application(control, tokens=TOKEN)
    client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1))
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert "Log in" in client.get("/").text
    assert client.get("/api/runs").status_code == 401
    assert client.get("/api/runs", headers=bearer).status_code == 200
    assert client.get("/api/openapi.json").status_code == 401
    assert "/api/runs" in client.get("/api/openapi.json", headers=bearer).json()["paths"]
    for path in ("/docs", "/redoc", "/api/nothing"):
        response = client.get(path)
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
    script = client.get("/static/page.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert not re.findall(r"https?://", script.text + client.get("/static/page.css").text)
    assert client.get("/static/..%2Fpage.py").status_code == 404


@pytest.mark.parametrize("path", ["/workers", "/requests", "/"])
def test_pages_without_anything(control: Control, path: str) -> None:
    check_inert(browser(control), path)


def test_workers_with_their_leases(control: Control) -> None:
    database, name = launched_database(), unique("<b>host")
    for executor_id in ("here", "gone"):
        holder = Holder(f"{name}-{executor_id}", executor_id, "host:7", "shop", "v1")
        leases = Leases(database, holder, 30)
        leases.prepare()
        assert leases.take({"crew": ["research", "triage"], "flow": []}) is None
    leases.release()
    found = look(browser(control), "/workers").text
    assert f"{name}-here" in found
    assert "alive" in found
    assert "crew research, triage" in found
    assert "lease given up" in found
    assert re.search(r"(\d+ ms|[01]\.\d s) ago, of 30 s", found), found
