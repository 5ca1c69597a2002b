"""A process that is killed while it works with a provider: the next one asks for what is left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crewai_dbos.testing.crash import CrashTest, Position
from providers.models import KILLED, PROVIDERS, environment
from providers.scripts import one_after_the_other
from providers.server import ProviderServer
from support.databases import some_here

pytestmark = pytest.mark.crash


@pytest.fixture(scope="module")
def server() -> Iterator[ProviderServer]:
    """One for all, as processes are forked of one that has imported every agent."""
    server = ProviderServer(next(iter(PROVIDERS.values())).wire(), one_after_the_other)
    with server.running(), pytest.MonkeyPatch.context() as patch:
        for name, text in environment(server.url).items():
            patch.setenv(name, text)
        yield server


@pytest.mark.parametrize("provider", some_here(PROVIDERS, KILLED))
def test_killed_after_a_tool_and_in_the_last_request(provider: str, server: ProviderServer) -> None:
    server.wire = PROVIDERS[provider].wire()
    with CrashTest("providers.crashing:find_out", {"provider": provider}) as test:
        server.requests.clear()
        every = test.positions()
        expected = [asked.text for asked in server.requests]
        assert len(expected) == 3
        tool = [
            each for each in every if "tool:search" in each.entry and "around" not in each.entry
        ]
        after_a_tool = next(each for each in tool if each.moment == "after")
        answered = [each for each in every if each.entry.endswith("llm#3")]
        in_the_last = next(each for each in answered if each.moment == "unrecorded")
        for position, again in ((after_a_tool, []), (in_the_last, expected[-1:])):
            check(test, position, server, [*expected, *again])


def check(test: CrashTest, position: Position, server: ProviderServer, requests: list[str]) -> None:
    server.requests.clear()
    verdict = test.run(position)
    observed = verdict.observed
    assert observed.deaths == 1
    assert observed.ended["status"] == "SUCCESS", str(verdict)
    assert "Answer of 2." in str(observed.ended["answer"])
    assert len([effect for effect in observed.effects if effect.kind == "search"]) == 2
    assert [asked.text for asked in server.requests] == requests, str(position)
