"""Letters that leave the house: once each.

A service that drops what it was given before would be given the key. A file is named after it here.
"""

from __future__ import annotations

import os
from pathlib import Path

from crewai.tools import tool
from dbos import DBOS

from crewai_dbos import idempotency_key
from crewai_dbos.testing import report_effect

FOLDER = Path(os.environ.get("OUTBOX", "outbox"))


@tool
@DBOS.step()
def send_letter(to: str, letter: str) -> str:
    """Send a letter."""
    report_effect("letter", to=to)
    FOLDER.mkdir(exist_ok=True)
    # A letter that was in flight at a kill is sent again under the same key: it is the same file.
    (FOLDER / f"{to}-{idempotency_key()}.txt").write_text(f"{letter}\n")
    return f"sent to {to}"
