"""docs/operations.md: its table is complete, and its program runs as it stands."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from crewai_dbos._health.metrics import INSTRUMENTS
from fleet.test_page import PROGRAMS
from pages.blocks import blocks, text_of
from support.python import Program

PAGE = text_of("docs/operations.md")


def test_the_table_has_every_metric() -> None:
    rows = re.findall(r"^\| `(crewai_dbos_\w+)` \| (\w+) \| (.*?) \|", PAGE, re.MULTILINE)
    found = {name: (kind, re.findall(r"`(\w+)`", labels)) for name, kind, labels in rows}
    expected = {}
    for each in INSTRUMENTS:
        unit = f"_{each.unit}" if each.unit else ""
        total = "_total" if each.is_counter else ""
        name = f"{each.name.replace('.', '_')}{unit}{total}"
        expected[name] = ("counter" if each.is_counter else "gauge", list(each.labels))
    assert found == expected


@pytest.mark.crash
def test_the_program(tmp_path: Path) -> None:
    (block,) = blocks("docs/operations.md")
    (tmp_path / "program.py").write_text(block + PROGRAMS["sync"])
    url = f"sqlite:///{tmp_path}/support.sqlite"
    env = {**os.environ, "OTEL_SDK_DISABLED": "false"}
    program = Program("program.py", url, folder=tmp_path, env=env)
    try:
        program.says("works as")
        program.send_signal(signal.SIGTERM)
        said, errors = program.communicate(timeout=60)
    finally:
        program.end()
    assert program.returncode == 0, errors
    assert '"name": "crewai_dbos.requests.open"' in said
