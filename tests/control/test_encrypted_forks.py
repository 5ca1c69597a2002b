"""Forks of encrypted runs: what is edited is encrypted as they are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from crewai import Crew

from crewai_dbos import DBOSCrew
from crewai_dbos.control import Control
from crewai_dbos.encryption import EncryptedSerializer
from crewai_dbos.errors import SealedError
from crewai_dbos.testing import ModelServer
from crews.scenarios import agent, answer, asked, task
from support.launching import launched
from support.names import unique


def three() -> DBOSCrew:
    def build() -> Crew:
        writer = agent("Writer")
        return Crew(
            agents=[writer],
            tasks=[task("One {word}", writer), task("Two", writer), task("Three", writer)],
        )

    return DBOSCrew(crew_name=unique("sealed"), orig_crew=build)


def test_an_encrypted_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, key = f"sqlite:///{tmp_path}/dbos.sqlite", EncryptedSerializer({"a": b"k" * 32})
    with ModelServer(answer) as server, launched(url, serializer=key):
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        crew = three()
        run = crew.start({"word": "otters"})
        run.get_result()
        before = len(server.requests)
        with Control(url, serializer=key) as control:
            fork = control.fork(run.workflow_id, edit={"task:2": "marzipan"})
            assert "given [One" not in crew.retrieve(fork).get_result().raw
            assert "marzipan" in server.requests[-1].last_user_text
            assert Counter(map(asked, server.requests[before:])) == {"Three": 1}
            inputs = control.fork(run.workflow_id, inputs={"word": "quicksilver"})
            assert "One quicksilver" in crew.retrieve(inputs).get_result().tasks_output[0].raw
            edited = control.fork(run.workflow_id, edit={"task:3/llm#1": "periwinkle"})
            assert crew.retrieve(edited).get_result().raw == "periwinkle"
        stored = (tmp_path / "dbos.sqlite").read_bytes()
        assert not any(word in stored for word in (b"marzipan", b"quicksilver", b"periwinkle"))


def test_an_encrypted_run_without_its_serializer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, key = f"sqlite:///{tmp_path}/dbos.sqlite", EncryptedSerializer({"a": b"k" * 32})
    with ModelServer(answer) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        with launched(url, serializer=key):
            run = three().start({"word": "otters"})
            run.get_result()
    with Control(url) as control:
        for wanted in (
            {"at": "task:1"},
            {"edit": {"task:2/llm#1": "No"}},
            {"inputs": {"word": "boats"}},
        ):
            with pytest.raises(SealedError, match=r"Control\(url, serializer=...\)"):
                control.fork(run.workflow_id, **wanted)
