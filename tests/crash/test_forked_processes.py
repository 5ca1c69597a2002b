"""What a process finds done already that was forked for a crash test."""

from __future__ import annotations

from pathlib import Path

import pytest

from crewai_dbos.testing.crash._fork_server import ForkServer
from crewai_dbos.testing.crash._jobs import Job

pytestmark = pytest.mark.crash


def test_classes_that_every_run_needs_are_built(server: ForkServer, tmp_path: Path) -> None:
    process = server.start(Job("crash.jobs:unbuilt", {}, tmp_path / "log", {}))
    end = process.wait()
    assert end.code == 0, process.output()
    assert end.result == []
