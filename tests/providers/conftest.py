"""One DBOS for all tests of providers, and a server for each of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from providers.models import PROVIDERS, environment
from providers.server import ProviderServer, Script
from support.launching import launched_in

Serve = Callable[[str, Script], ProviderServer]


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the database is."""
    return tmp_path_factory.mktemp("providers")


@pytest.fixture(scope="package", autouse=True)
def launched(folder: Path) -> Iterator[None]:
    with launched_in(folder):
        yield


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts a server that stands in for a provider, and points its SDK at it."""
    with contextlib.ExitStack() as running:

        def start(provider: str, script: Script) -> ProviderServer:
            server = ProviderServer(PROVIDERS[provider].wire(), script)
            running.enter_context(server.running())
            for name, text in environment(server.url).items():
                monkeypatch.setenv(name, text)
            return server

        yield start
