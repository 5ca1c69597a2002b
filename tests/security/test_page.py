"""The programs of the pages on security run as they stand, and do what the pages say."""

from __future__ import annotations

import os
import re
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from crewai import Agent

from crewai_dbos import DBOSAgent
from crewai_dbos._runs.registry import agents
from crewai_dbos._secrets import known
from crewai_dbos._stored.codec import decode, encode
from crewai_dbos.testing import ModelServer, text
from pages.blocks import blocks, text_of
from support.python import python
from test_secrets import stored_texts


@pytest.mark.crash
def test_the_page_about_encryption(tmp_path: Path) -> None:
    (block,) = blocks("docs/encryption.md")
    command = re.findall(r"^python -c '(.*)'$", text_of("docs/encryption.md"), re.MULTILINE)[0]
    key = python("-c", command, folder=tmp_path).stdout.strip()
    (tmp_path / "program.py").write_text(block)
    with ModelServer(lambda request: text("Dear customer.")) as server:
        done = python(
            "program.py",
            folder=tmp_path,
            env={**os.environ, **server.env, "CREWAI_DBOS_KEYS": f"a={key}"},
        )
    assert done.returncode == 0, done.stderr
    assert "Dear customer." in done.stdout
    stored = stored_texts(tmp_path / "support.sqlite")
    assert "ticket-7" in stored
    assert "Dear customer." not in stored
    assert "Answer ticket 7" not in stored


def test_the_page_about_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    given, hidden, redacting = blocks("docs/secrets.md")
    vault = SimpleNamespace(read=lambda name: f"the {name}: 4711")
    orig = Agent(role="R", goal="G", backstory="B")
    monkeypatch.setattr(agents, "_definitions", {})
    names: dict[str, Any] = {"vault": vault, "orig": orig, "DBOSAgent": DBOSAgent}
    exec(given, names)
    assert known.hide("said the door code: 4711") == "said ***"
    exec(redacting, names)
    assert names["agent"].definition.redact("4000123412341234!") == "[card]!"
    # Where a class is looked for that is stored.
    monkeypatch.setitem(sys.modules, "page", types.ModuleType("page"))
    names = vars(sys.modules["page"])
    exec(hidden, names)
    state = names["State"](visits=1)
    state._seen.append("home")
    assert decode(encode(state))._seen == ["home"]


def test_the_page_about_security() -> None:
    (block,) = blocks("SECURITY.md")
    names: dict[str, Any] = {}
    exec(block, names)
    crew = SimpleNamespace(retrieve=lambda run_id: run_id)
    assert names["result_for"]("acme", "7", crew) == "acme/7"
