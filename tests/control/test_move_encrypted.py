"""Runs of an application that encrypts, moved to another application version."""

from __future__ import annotations

from pathlib import Path

import pytest
from dbos import SetWorkflowID

from control.test_move import (
    NOW,
    OLD,
    changing,
    last_of,
    register_the_old_version,
    to_the_old_version,
)
from crewai_dbos.control import Control
from crewai_dbos.encryption import EncryptedSerializer
from crewai_dbos.errors import DriftError
from crewai_dbos.testing import text
from support.launching import launched
from support.names import unique
from support.serving import serving


def test_one_that_is_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever moves it needs no key."""
    url, key = f"sqlite:///{tmp_path}/dbos.sqlite", EncryptedSerializer({"a": b"k" * 32})
    servers = serving(monkeypatch, lambda _: text("done"))
    crew, kickoff, changed = changing(False)
    with launched(url, serializer=key, application_version=NOW):
        register_the_old_version()
        server, run_id = next(servers)(), unique("run")
        with SetWorkflowID(run_id):
            kickoff()
        to_the_old_version(run_id, last_of(run_id))
        changed.append(True)
        with Control(url) as control:
            control.move(run_id)
            with pytest.raises(DriftError, match=f"runs move {run_id} --version {OLD}"):
                crew.retrieve(run_id).get_result()
            assert "marzipan" not in str(control.run(run_id).reason)
            control.move(run_id, version=OLD)
            changed.clear()
            control.move(run_id, version=NOW)
        assert crew.retrieve(run_id).get_result().raw == "done"
        assert len(server.requests) == 3
    next(servers, None)
