"""What the OpenAPI says is what the endpoints do, whatever they are sent: schemathesis asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from crewai_dbos.control import Control
from crewai_dbos.http import router
from crewai_dbos.testing import ModelServer
from front.conftest import BEARER, TOKEN, approved, sending
from people.conftest import until
from support.controlling import one_dbos
from support.entries import how_many


@pytest.fixture(scope="module", params=["postgres"])  # which takes fewer texts than SQLite
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with one_dbos(request, tmp_path_factory) as url:
        yield url


@pytest.fixture(scope="module")
def known(url: str) -> Iterator[tuple[Any, dict[str, str]]]:
    """What its OpenAPI says, and the ids of a run that has ended and of what it has asked."""
    clerks = approved()
    with ModelServer(sending) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.env.items():
            patch.setenv(name, value)
        with Control(url) as control:
            run_id = clerks.start({"topic": "otters"}).workflow_id
            (request,) = until(lambda: control.requests(run_id=run_id))
            control.cancel(run_id)
            app = FastAPI()
            app.include_router(router(control, definitions=[clerks], tokens=[TOKEN]))
            ids = {"run_id": run_id, "kickoff_id": run_id, "request_id": request.request_id}
            yield schemathesis.openapi.from_asgi("/openapi.json", app), ids


@pytest.mark.some_entries
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_endpoints(mode: GenerationMode, known: tuple[Any, dict[str, str]]) -> None:
    schema, ids = known
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 17
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not _takes_anything(operation):
            continue

        @settings(
            max_examples=how_many(3, 8),
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            for name, value in (case.path_parameters or {}).items():
                if mode is GenerationMode.POSITIVE and len(str(value)) % 2:
                    case.path_parameters[name] = ids[name]
            response = case.call(headers=BEARER)
            if response.status_code == 413:
                return  # which schemathesis does not take for a refusal
            # Some texts fit a schema and no database, and some places are in no run.
            left_out = [positive_data_acceptance]
            case.validate_response(response, excluded_checks=left_out, headers=BEARER)

        ask()


def _takes_anything(operation: Any) -> bool:
    return bool(operation.body or operation.query)
