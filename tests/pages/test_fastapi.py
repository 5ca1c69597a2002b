"""docs/fastapi.md: its application under a real uvicorn, which is killed in the middle of a run."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from crewai_dbos.testing import ModelServer, Reply, Request, hang, text
from pages.blocks import blocks
from people.conftest import until
from support.python import Program

pytestmark = pytest.mark.crash


def asked(url: str, method: str = "GET") -> dict[str, Any]:
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=30) as response:
        found: dict[str, Any] = json.load(response)
    return found


def test_the_application(tmp_path: Path) -> None:
    source = "\n".join(blocks("docs/fastapi.md"))
    # A dead process is missed sooner.
    source = source.replace("Worker(grace=20)", "Worker(grace=20, lease=1)")
    (tmp_path / "app.py").write_text(source)
    held = hang(text("Held."))

    def model(request: Request) -> Reply:
        return held if "Write it" in request.last_user_text else text("Swimming.")

    with ModelServer(model) as server:
        env = {**os.environ, "HOME": str(tmp_path), **server.env}
        first, url = serving(tmp_path, env)
        assert asked(f"{url}/research/otters", "POST") == {"id": "research-otters"}
        held.wait_until_held(timeout=60)
        assert asked(f"{url}/research/otters", "POST") == {"id": "research-otters"}
        assert asked(f"{url}/research/otters")["text"] is None
        with pytest.raises(urllib.error.HTTPError, match="404"):
            asked(f"{url}/research/seals")
        first.kill()
        first.communicate(timeout=60)
        held.release()
        before = len(server.requests)

        second, url = serving(tmp_path, env)
        until(lambda: asked(f"{url}/research/otters")["status"] == "SUCCESS")
        assert asked(f"{url}/research/otters")["text"] == "Held."
        assert asked(f"{url}/research/otters/now", "POST") == {"text": "Held."}
        assert len(server.requests) - before == 1, "the call in flight"
        second.send_signal(signal.SIGTERM)
        out, errors = second.communicate(timeout=60)
    assert "Application shutdown complete" in errors, out + errors


def serving(folder: Path, env: dict[str, str]) -> tuple[Program, str]:
    """The server, at work, and its address."""
    server = Program("-m", "uvicorn", "app:app", "--port", "0", folder=folder, env=env)
    found: list[str] = []

    def address() -> bool:
        server.check_is_there()
        for line in server._texts()[1].splitlines():
            if "running on " in line:
                found.append(line.partition("running on ")[2].split()[0])
        return bool(found)

    until(address)
    return server, found[0]
