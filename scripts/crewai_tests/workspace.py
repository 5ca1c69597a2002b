"""Fixtures that crewAI's tests take from the workspace they are a part of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def setup_test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A storage folder and an event bus of its own for each test."""
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path / "storage"))
    for name in ("CREWAI_TESTING", "CREWAI_DISABLE_TELEMETRY", "OTEL_SDK_DISABLED"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("CREWAI_TRACING_ENABLED", "false")
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    from crewai.events import crewai_event_bus
    from crewai.events.base_events import reset_emission_counter
    from crewai.events.event_context import (
        EventContextConfig,
        _event_context_config,
        _event_id_stack,
    )

    reset_emission_counter()
    _event_id_stack.set(())
    _event_context_config.set(EventContextConfig())
    yield
    crewai_event_bus.flush(5)
    with crewai_event_bus._rwlock.w_locked():
        crewai_event_bus._sync_handlers.clear()
        crewai_event_bus._async_handlers.clear()


@pytest.fixture(scope="module")
def vcr_cassette_dir(request: pytest.FixtureRequest) -> str:
    tests = request.config.rootpath / "tests"
    return str(tests / "cassettes" / request.path.parent.relative_to(tests))


@pytest.fixture(scope="module")
def vcr_config() -> dict[str, Any]:
    return {
        "record_mode": "none",
        "match_on": ["method", "scheme", "host_of_any_account", "port", "path"],
    }


def pytest_recording_configure(vcr: Any) -> None:
    vcr.register_matcher(
        "host_of_any_account", lambda one, other: _host(one.host) == _host(other.host)
    )


def _host(name: str | None) -> str:
    """The host that a request was sent to, without the region or the account that it names."""
    return re.sub(r"^[\w.-]+\.(openai\.azure\.com|amazonaws\.com)$", r"\1", name or "")
