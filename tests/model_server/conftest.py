"""Servers that stop with the test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from crewai_dbos.testing import ModelServer
from model_server.helpers import Serve


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers that stop with the test."""
    servers: list[ModelServer] = []

    def start(script: Any, **options: Any) -> ModelServer:
        servers.append(ModelServer(script, **options).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
