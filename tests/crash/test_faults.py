"""What the log of a run that is to be killed says, and when."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from crash.models import letters
from crewai_dbos.testing import EffectLog, ModelServer
from crewai_dbos.testing.crash._fork_server import ForkServer
from crewai_dbos.testing.crash._jobs import PATIENCE, Job
from crewai_dbos.testing.effects import EFFECTS

pytestmark = pytest.mark.crash


def test_a_call_is_known_to_have_begun_before_its_effect(
    server: ForkServer, tmp_path: Path
) -> None:
    """Else a kill between the two leaves an effect of no call, which counts as a repeated one."""
    events = EffectLog(tmp_path / "events")
    effects = full_pipe(tmp_path / "effects")
    with ModelServer(letters(["Ann"])) as model:
        job = Job(
            "crash.jobs:start_with_an_undecorated_tool",
            {
                "database_url": f"sqlite:///{tmp_path / 'runs.sqlite'}",
                "fault": {"log": str(events.path)},
            },
            tmp_path / "log",
            {**model.env, EFFECTS: str(tmp_path / "effects")},
        )
        process = server.start(job)
        deadline = time.monotonic() + PATIENCE
        while not events.count("during", by="effect") and time.monotonic() < deadline:
            time.sleep(0.02)
        process.end()
        os.close(effects)
    assert events.count("during", by="effect") == 1, process.output()


def full_pipe(path: Path) -> int:
    """A named pipe in which there is no room: who writes to it waits."""
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.write(descriptor, b"x" * fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ))
    return descriptor
