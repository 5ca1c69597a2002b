"""`crewai-dbos serve`: the page and the API of a database, to this machine or with a token."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from crewai_dbos.cli import app
from front.conftest import BEARER, TOKEN
from front.test_served import free_port
from people.conftest import until


def test_what_it_refuses(url: str, tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["serve", *arguments])
        assert result.exit_code == 2
        return result.output

    assert "CREWAI_DBOS_TOKEN" in refused("--db-url", url, "--host", "0.0.0.0")
    assert "characters" in refused("--db-url", url, "--token", "short")
    assert "There is no database" in refused("--db-url", f"sqlite:///{tmp_path}/none.sqlite")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "Ctrl-C to stop" not in refused("--db-url", url, "--port", str(port))


@pytest.mark.crash
def test_it_serves_until_it_is_stopped(url: str, tmp_path: Path) -> None:
    port = free_port()
    path = os.pathsep.join(entry for entry in sys.path if entry)
    env = {**os.environ, "PYTHONPATH": path, "CREWAI_DBOS_TOKEN": TOKEN}
    command = [sys.executable, "-X", "importtime", "-m", "crewai_dbos.cli", "serve"]
    output = tmp_path / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
            [*command, "--db-url", url, "--port", str(port)],
            cwd=tmp_path,
            env=env,
            stdout=file,
            stderr=file,
        )
    address = f"http://127.0.0.1:{port}"

    def answers() -> httpx.Response | None:
        try:
            return httpx.get(f"{address}/api/runs", headers=BEARER)
        except httpx.TransportError:
            assert process.poll() is None
            return None

    try:
        assert until(answers).status_code == 200
        assert httpx.get(f"{address}/api/runs").status_code == 401
        assert "Log in" in httpx.get(address, follow_redirects=True).text
    finally:
        process.terminate()
        process.wait(60)
    said = output.read_text()
    assert f"{address}  (the API: /api)" in said
    assert TOKEN not in said
    assert "| fastapi\n" in said.replace(" ", "").replace("|", "| ")
    assert "| crewai\n" not in said.replace(" ", "").replace("|", "| ")
