"""The program of docs/encryption.md runs as it stands, and does what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from crewai_dbos.testing import ModelServer, text
from test_secrets import stored_texts

PAGE = Path(__file__).parent.parent.parent / "docs" / "encryption.md"


def test_the_page_about_encryption(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    command = re.findall(r"^python -c '(.*)'$", PAGE.read_text(), re.MULTILINE)[0]
    key = subprocess.check_output([sys.executable, "-c", command], text=True).strip()
    (tmp_path / "program.py").write_text(block)
    with ModelServer(lambda request: text("Dear customer.")) as server:
        done = subprocess.run(
            [sys.executable, "program.py"],
            cwd=tmp_path,
            env={**os.environ, **server.env, "CREWAI_DBOS_KEYS": f"a={key}"},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "Dear customer." in done.stdout
    stored = stored_texts(tmp_path / "support.sqlite")
    assert "ticket-7" in stored
    assert "Dear customer." not in stored
    assert "Answer ticket 7" not in stored
