"""What becomes of a request that fails, on every provider: as the README promises."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSLLM, StepConfig
from crewai_dbos.testing import drop, error, text
from providers.conftest import Serve
from providers.models import PROVIDERS
from providers.server import Asked, Reply
from support.names import unique

FAST = StepConfig(retries_allowed=True, max_attempts=5, interval_seconds=0.01)

now: dict[str, Any] = {}


@DBOS.workflow()
def ask_once() -> Any:
    try:
        return now["llm"].call("Hello.")
    except Exception as error:
        now["error"] = error


@DBOS.workflow()
async def ask_once_async() -> Any:
    try:
        return await now["llm"].acall("Hello.")
    except Exception as error:
        now["error"] = error


def asked_async() -> Any:
    return asyncio.run(ask_once_async())


WAYS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sync": (ask_once, {}),
    "async": (asked_async, {}),
    "stream": (ask_once, {"stream": True}),
    "async stream": (asked_async, {"stream": True}),
}


def in_order(*replies: Reply) -> Callable[[Asked], Reply]:
    left = list(replies)
    return lambda asked: left.pop(0)


def answer(provider: str, way: str) -> Any:
    """What a recorded request comes to."""
    now.clear()
    how, options = WAYS[way]
    now["llm"] = DBOSLLM(PROVIDERS[provider].build(**options), step_config=FAST)
    with SetWorkflowID(unique("asking")):
        answered = how()
    if "error" in now:
        raise now["error"]
    return answered


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_can_pass_is_tried_again_by_one_layer(provider: str, way: str, serve: Serve) -> None:
    """The clients of SDKs retry too, outside a run."""
    arrivals: list[float] = []
    replies = in_order(
        error(429, retry_after=0.4), error(500), error(503), drop(), text("At last.")
    )

    def script(asked: Asked) -> Reply:
        arrivals.append(time.monotonic())
        return replies(asked)

    server = serve(provider, script)
    assert answer(provider, way) == "At last."
    assert len(server.requests) == 5
    assert arrivals[1] - arrivals[0] >= 0.4


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_as_often_as_it_is_told_to(provider: str, way: str, serve: Serve) -> None:
    """It has not merely outlived the retries of an SDK."""
    server = serve(provider, lambda asked: error(503))
    with pytest.raises(Exception, match=r"overloaded|503"):
        answer(provider, way)
    assert len(server.requests) == FAST.attempts


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_wrong_key_is_asked_once_and_said_as_crewai_says_it(
    provider: str, way: str, serve: Serve
) -> None:
    server = serve(provider, lambda asked: error(401))
    _, options = WAYS[way]
    llm = PROVIDERS[provider].build(**options)
    with pytest.raises(Exception) as plain:  # noqa: PT011
        asyncio.run(llm.acall("Hello.")) if "async" in way else llm.call("Hello.")
    assert len(server.requests) == 1
    with pytest.raises(type(plain.value)) as durable:
        answer(provider, way)
    assert str(durable.value) == str(plain.value)
    assert len(server.requests) == 2
