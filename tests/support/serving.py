"""The model server that the environment names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from crewai_dbos.testing import ModelServer

Serve = Callable[..., ModelServer]
"""Starts a server with a script, by default that of the tests' package, and points crewAI at it."""


def serving(monkeypatch: pytest.MonkeyPatch, default: Any) -> Iterator[Serve]:
    """For a fixture: what starts servers, all of which are stopped afterwards."""
    running: list[ModelServer] = []

    def start(script: Any = default) -> ModelServer:
        server = ModelServer(script).start()
        running.append(server)
        for key, value in server.env.items():
            monkeypatch.setenv(key, value)
        return server

    yield start
    for server in running:
        server.stop()
