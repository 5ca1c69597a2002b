"""Runs of an application that encrypts: names, kinds, times and counts are in the clear."""

from __future__ import annotations

import pytest
from dbos import DBOS, SetWorkflowID

from control.reading_runs import crew_of, every
from crewai_dbos import DBOSCrew
from crewai_dbos.control import Control
from crewai_dbos.encryption import EncryptedSerializer, generate_key
from crewai_dbos.errors import DriftError
from crewai_dbos.testing import error, text
from support.databases import sqlite_here
from support.launching import launched
from support.names import unique
from support.serving import serving


@sqlite_here("database_url")
def test_what_is_sealed_is_said_to_be(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serializer = EncryptedSerializer({"k": generate_key()})
    tasks = ["first", "second"]
    durable = DBOSCrew(crew_name=unique("sealed"), orig_crew=lambda: crew_of(*tasks)())
    run_id = unique("sealed")
    servers = serving(monkeypatch, None)
    with launched(database_url, serializer=serializer):
        next(servers)(
            lambda r: error(404, message="Gone.") if "second" in r.last_user_text else text("done")
        )
        with SetWorkflowID(run_id), pytest.raises(Exception, match="Gone"):
            durable.kickoff()
        tasks[0] = "another"
        fork = DBOS.fork_workflow(run_id, 100).workflow_id
        with pytest.raises(DriftError):
            durable.retrieve(fork).get_result()
        DBOS.update_workflow_attributes(run_id, None)
    next(servers, None)

    with Control(database_url) as control:
        (listed,) = control.runs(definition=durable.crew_name, state="failed")
        run, stopped = control.run(run_id), control.run(fork)
    assert (listed.run_id, listed.tokens.requests) == (run_id, 1)
    assert [node.name for node in run.children] == ["task:1.first", "task:2.second"]
    failed, *_ = [node for node in every(run.children) if node.kind == "llm" and node.error]
    assert failed.state == "failed"
    assert all("encrypted" in str(told) for told in (failed.error, run.error, stopped.reason))
    assert (stopped.state, str(stopped.reason).partition(":")[0]) == ("stopped", "DriftError")
    assert "Gone" not in f"{run}"

    with Control(database_url, serializer=serializer) as control:
        run, stopped = control.run(run_id), control.run(fork)
    failed, *_ = [node for node in every(run.children) if node.kind == "llm" and node.error]
    assert "Gone." in str(failed.error)
    assert "Gone." in str(run.error)
    assert "another" in str(stopped.reason)
