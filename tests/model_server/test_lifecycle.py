"""Starting, stopping and importing it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import openai
import pytest

from crewai_dbos.testing import Hang, ModelServer, hang
from model_server.helpers import HELLO, ask, expect


class TestLifecycle:
    def test_comes_back_at_the_same_address(self) -> None:
        server = ModelServer(lambda request: "hi")
        with server:
            address = server.base_url
            ask(server)
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"{address}/models")
        with server:
            assert server.base_url == address
            ask(server)
        assert len(server.requests) == 2

    def test_stopping_frees_held_clients(self) -> None:
        held: Hang = hang()
        server = ModelServer([held]).start()
        thread = threading.Thread(
            target=expect, args=[openai.APIConnectionError, lambda: ask(server)]
        )
        thread.start()
        held.wait_until_held()
        server.stop()
        thread.join(5)
        assert not thread.is_alive()
        held.release()

    @pytest.mark.crash
    def test_serves_until_ctrl_c(self) -> None:
        program = (
            "from crewai_dbos.testing import ModelServer;"
            "ModelServer(lambda request: 'hi', token='known').serve_forever()"
        )
        options: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen([sys.executable, "-c", program], **options) as process:
            said = [process.stdout.readline() for _ in range(2)]
            env = dict(line.removeprefix("export ").strip().split("=", 1) for line in said)
            assert env["OPENAI_BASE_URL"].endswith("/known/v1")
            model = openai.OpenAI(base_url=env["OPENAI_BASE_URL"], api_key=env["OPENAI_API_KEY"])
            reply = model.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
            assert reply.choices[0].message.content == "hi"
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "")
        assert "Ctrl-C" in errors
        assert "Traceback" not in errors

    @pytest.mark.crash
    def test_does_not_import_crewai_or_dbos(self) -> None:
        # A stand-in for the parent package: what that imports is not this package's affair.
        package = Path(__file__).parents[2] / "src" / "crewai_dbos"
        program = (
            "import sys, types; parent = types.ModuleType('crewai_dbos');"
            f"parent.__path__ = [{str(package)!r}]; sys.modules['crewai_dbos'] = parent;"
            "import crewai_dbos.testing;"
            "sys.exit(bool({'crewai', 'dbos', 'openai'} & set(sys.modules)))"
        )
        assert subprocess.run([sys.executable, "-c", program]).returncode == 0
