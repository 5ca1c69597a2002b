"""A batch where DBOS has few threads for workflows: its items need the one that it would hold."""

from __future__ import annotations

import pytest

from crewai_dbos.testing import text
from support.controlling import crew_of
from support.launching import launched
from support.serving import serving


def test_a_batch_on_one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    with launched(f"sqlite:///{tmp_path}/dbos.sqlite", max_executor_threads=1):
        for serve in serving(monkeypatch, lambda _: text("done")):
            serve()
            outputs = crew_of().kickoff_for_each([{"topic": "ants"}, {"topic": "bees"}])
    assert [output.raw for output in outputs] == ["done", "done"]
