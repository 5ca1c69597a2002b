"""`crewai-dbos inbox`, beside a run that waits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from crewai_dbos import People
from crewai_dbos.cli import app
from people.conftest import Desk
from people.office import Post, office, writing
from support.databases import sqlite_here
from support.serving import Serve

pytestmark = sqlite_here("url")

MAIL = {"to": "ann@example.org", "body": "Hello."}


@pytest.fixture
def inbox(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DBOS_SYSTEM_DATABASE_URL", url)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["inbox", *arguments])

    return call


@pytest.fixture
def waiting(serve: Serve, desk: Desk) -> Any:
    """A run whose mail has to be approved, the post, and the request."""
    serve(writing(MAIL))
    post = Post()
    crew = office(post, People(approve_tools=["send_email"], audience="support"))
    run = crew.start({"who": "Ann"})
    return run, post, desk.next(run.workflow_id)


def test_listed_shown_and_approved_in_an_editor(
    waiting: Any, inbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, post, request = waiting
    listed = json.loads(inbox("list", "--json", "--audience", "support").stdout)
    assert request.request_id in [each["request_id"] for each in listed]
    assert json.loads(inbox("list", "--json", "--audience", "sales").stdout) == []
    short = request.request_id[:8]
    told = inbox("list").stdout
    assert short in told
    arguments = json.dumps(request.question.arguments)
    assert f"{request.question.message} {arguments[:40]}" in " ".join(told.split())
    shown = inbox("show", short).stdout
    assert 'to = "ann@example.org"' in shown
    assert run.workflow_id in shown
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i s/ann@example.org/bob@example.org/ "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    done = inbox("approve", short, "--edit", "--by", "ann")
    assert done.exit_code == 0, done.output
    run.get_result()
    assert [mail["to"] for mail in post.sent] == ["bob@example.org"]
    late = inbox("reject", short)
    assert (late.exit_code, "was answered by ann" in late.output) == (1, True)
    assert request.request_id in inbox("list", "--all", "--json").stdout


def test_rejected_and_what_can_not_be(waiting: Any, inbox: Any, url: str) -> None:
    run, post, request = waiting
    wrong = inbox("reply", request.request_id, "hello")
    said = " ".join(wrong.output.split())
    assert (wrong.exit_code, "Approve (crewai-dbos inbox approve) or " in said) == (1, True)
    bad = inbox("approve", request.request_id, "--arguments", "{")
    assert (bad.exit_code, "is not JSON" in bad.output) == (2, True)
    nowhere = {"DBOS_SYSTEM_DATABASE_URL": "sqlite:///nowhere.sqlite"}
    for named in (["--db-url", url, "list"], ["list", "--db-url", url]):
        listed = CliRunner().invoke(app, ["inbox", *named, "--json"], env=nowhere)
        assert request.request_id in listed.stdout, listed.output
    before = ["--db-url", "sqlite:///nowhere.sqlite", "list", "--db-url", url, "--json"]
    assert request.request_id in inbox(*before).stdout
    assert "no database" in inbox("--db-url", "sqlite:///nowhere.sqlite", "list").output
    unknown = inbox("approve", "nothing", "--db-url", url)
    assert (unknown.exit_code, "no request 'nothing'" in unknown.output) == (1, True)
    assert inbox("reject", request.request_id, "--why", "Too late").exit_code == 0
    assert "Too late" in run.get_result().raw
    assert post.sent == []


def test_a_database_that_is_not_there(inbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = inbox("list", "--db-url", "sqlite:///nowhere.sqlite")
    assert (missing.exit_code, "There is no database" in missing.output) == (2, True)
    monkeypatch.delenv("DBOS_SYSTEM_DATABASE_URL")
    unnamed = inbox("list")
    assert (unnamed.exit_code, "Which database?" in unnamed.output) == (2, True)
