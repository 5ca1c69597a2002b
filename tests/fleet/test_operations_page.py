"""docs/operations.md: its table is complete, and its program runs as it stands."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crewai_dbos._health.metrics import INSTRUMENTS
from fleet.test_page import PROGRAMS
from pages.blocks import blocks, text_of

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
    process = subprocess.Popen(
        [sys.executable, "program.py", f"sqlite:///{tmp_path}/support.sqlite"],
        cwd=tmp_path,
        env={**os.environ, "CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    while "works as" not in (line := process.stdout.readline()):
        assert line, "it has ended"
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert '"name": "crewai_dbos.requests.open"' in said
