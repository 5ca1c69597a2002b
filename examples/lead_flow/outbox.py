"""Letters that leave the house: once each."""

from __future__ import annotations

import os
from pathlib import Path

from crewai.tools import tool
from dbos import DBOS

from crewai_dbos.testing import report_effect

FOLDER = Path(os.environ.get("OUTBOX", "outbox"))


@tool
@DBOS.step()
def send_letter(to: str, letter: str) -> str:
    """Send a letter."""
    report_effect("letter", to=to)
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{to}.txt").open("a") as sent:
        sent.write(f"{letter}\n")
    return f"sent to {to}"
