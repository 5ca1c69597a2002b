"""`examples/ticket_triage.py`: a flow that sorts tickets, has crews answer them, and an editor."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ticket_triage
from crewai import Crew
from ticket_triage import Review, Triage

from crewai_dbos.testing import Hang, ModelServer, Reply, Request, hang, text
from crewai_dbos.testing.crash import CrashTest
from examples.models import support
from examples.programs import REPLIES, TICKETS, start
from support.crashing import killed_in_chains
from support.databases import sqlite_here
from support.entries import how_many
from support.python import python

pytestmark = pytest.mark.crash

MAIN = "ticket_triage_main"
SUMMARY = """2 billing, 1 technical

- 1: billing, 1 draft, accepted
- 2: technical, 2 drafts, accepted
- 3: billing, 3 drafts, not accepted"""
WRITTEN = {
    "1.md": "Dear customer, 49 EUR for one kettle, paid on 2 May and again on 3 May "
    "(none, it is the first draft)",
    "2.md": "Dear customer, The heater has limescale. Boil a spoon of citric acid, then rinse "
    "twice. (Say sorry)",
    "3.md": "Dear customer, 12 EUR for one filter, not paid, Old Street 1 (Say when)",
    "summary.md": SUMMARY,
}
REQUESTS = {
    "Classification": 3,
    "Billing clerk": 2 * 4,
    "Engineer": 2 * 2,
    "Writer": 6,
    "Editor": 6,
}


def asked(request: Request) -> str:
    """Who a request is of."""
    found = re.search(r"You are ([^.\n]+)\.", request.system_text)
    return found[1] if found else str(request.schema_name)


def replies(folder: Path) -> dict[str, str]:
    (found,) = folder.glob("replies*/")
    return {path.name: path.read_text() for path in found.iterdir()}


class SilentEditor:
    """As `support`, but silent when the second draft of the second ticket is first shown."""

    def __init__(self) -> None:
        self.silence: Hang = hang()
        self.shown = 0

    def __call__(self, request: Request) -> Reply:
        if request.schema_name == "Review" and "(Say sorry)" in request.last_user_text:
            self.shown += 1
            if self.shown == 1:
                return self.silence
        return support(request)


def test_killed_and_started_again(tmp_path: Path) -> None:
    model = SilentEditor()
    with ModelServer(model) as server:
        first = start(MAIN, tmp_path, server.env, str(TICKETS))
        model.silence.wait_until_held(timeout=60)
        first.kill()
        assert first.wait().killed
        assert set(replies(tmp_path)) == {"1.md"}

        second = start(MAIN, tmp_path, server.env, str(TICKETS))
        assert second.wait().code == 0, second.output()
        assert replies(tmp_path) == WRITTEN
        made = Counter(map(asked, server.requests))
        assert made == {**REQUESTS, "Editor": 7}, "one was cut off and made again"

        third = start(MAIN, tmp_path, server.env, str(TICKETS))
        assert third.wait().code == 0, third.output()
        assert SUMMARY in third.output()
        assert Counter(map(asked, server.requests)) == made, "the same run, which has ended"


def test_as_a_program_it_answers_the_tickets_of_this_repository(tmp_path: Path) -> None:
    with ModelServer(support) as server:
        env = {**os.environ, **server.env}
        done = python(ticket_triage.__file__, folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert SUMMARY in done.stdout
    assert replies(tmp_path) == WRITTEN


def test_texts_for_a_model_that_calls_no_tools(tmp_path: Path) -> None:
    def reader(request: Request) -> Reply:
        assert not request.offered_tools
        assert not request.response_format
        if "one word" in request.last_user_text:
            return text("Technical." if "E7" in request.last_user_text else "Billing.")
        if "You are Editor" in request.system_text:
            return text("No." if "address" in request.last_user_text else "Yes.")
        return text("Thanks.")

    with ModelServer(reader) as server:
        program = start(MAIN, tmp_path, server.env, str(TICKETS), "--texts")
        assert program.wait().code == 0, program.output()
    assert replies(tmp_path)["summary.md"] == SUMMARY.replace("2 drafts", "1 draft")


@pytest.mark.some_entries
def test_more_tickets_than_a_method_may_be_called_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draft(flow: Any, crew: Crew) -> None:
        flow.state.rounds += 1

    monkeypatch.setattr(Triage, "_category", lambda flow, ticket: "billing")
    monkeypatch.setattr(Triage, "_draft", draft)
    refused = Review(accepted=False, remark="No.")
    monkeypatch.setattr(Triage, "_verdict", lambda flow, ticket, draft: refused)
    count = how_many(35, 110)  # drafted three times each, which is more than a hundred calls
    for number in range(count):
        (tmp_path / f"{number}.txt").write_text("A ticket.")
    flow: Any = Triage()
    flow.kickoff({"folder": str(tmp_path), "replies": str(tmp_path / REPLIES)})
    assert [answer.rounds for answer in flow.state.answered] == [3] * count
    assert len(list((tmp_path / REPLIES).iterdir())) == count + 1


@pytest.mark.some_entries
@sqlite_here("database_kind")
def test_crash_matrix(database_kind: str) -> None:
    with CrashTest(
        "examples.programs:triage",
        {"inputs": {"folder": str(TICKETS), "replies": REPLIES}},
        model=support,
        setup="examples.programs:set_up",
        left_behind="examples.programs:replies",
        database=database_kind,
    ) as test:
        undisturbed = test.undisturbed
        assert undisturbed.ended["left behind"] == WRITTEN
        assert undisturbed.ended["answer"] == SUMMARY
        assert Counter(map(asked, undisturbed.requests)) == REQUESTS
        files = [*(("read", f"{number}.txt") for number in (1, 2, 3))]
        files += [("written", file) for file in WRITTEN]
        seen = Counter((effect.kind, effect.fields["file"]) for effect in undisturbed.effects)
        assert seen == dict.fromkeys(files, 1)
        chosen = test.positions(how_many(3, 8) if database_kind == "sqlite" else 2, seed=3)
        verdicts = killed_in_chains(test, chosen)
    wrong = [str(verdict) for verdict in verdicts if not verdict.ok]
    assert not wrong, "\n".join(wrong)
