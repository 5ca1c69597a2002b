"""One DBOS for all tests of DBOSCrew, and a model server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crews.scenarios import answer
from support.launching import launched_in
from support.replays import World, world_in
from support.serving import Serve, serving


@pytest.fixture(scope="package")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with launched_in(tmp_path_factory.mktemp("crews")):
        yield


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, launched: None) -> Iterator[Serve]:
    yield from serving(monkeypatch, answer)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return world_in(tmp_path, monkeypatch)
