"""Sources of knowledge whose loading was put off, queried by several agents."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from crewai.knowledge.knowledge import Knowledge
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource
from crewai.knowledge.storage.base_knowledge_storage import BaseKnowledgeStorage
from pydantic import Field

from crewai_dbos._objects import knowledge as durable


class Shelf(BaseKnowledgeStorage):
    """Finds whatever was saved."""

    saved: list[str] = Field(default_factory=list)

    def search(self, query: list[str], *args: Any, **kwargs: Any) -> list[Any]:
        return list(self.saved)

    async def asearch(self, query: list[str], *args: Any, **kwargs: Any) -> list[Any]:
        return self.search(query)

    def save(self, documents: list[str]) -> None:
        self.saved += documents

    async def asave(self, documents: list[str]) -> None:
        self.save(documents)

    def reset(self) -> None: ...

    async def areset(self) -> None: ...


def put_off(source: StringKnowledgeSource) -> tuple[Knowledge, Shelf]:
    shelf = Shelf()
    with durable.unloaded():
        knowledge = Knowledge("shelf", sources=[source], storage=shelf)
        knowledge.add_sources()
    assert shelf.saved == []
    return knowledge, shelf


def test_who_queries_while_they_are_loaded_waits() -> None:
    loading, goes_on = threading.Event(), threading.Event()

    class Slow(StringKnowledgeSource):
        def add(self) -> None:
            loading.set()
            assert goes_on.wait(60)
            super().add()

    knowledge, shelf = put_off(Slow(content="Otters sleep hand in hand."))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(knowledge.query, ["otters"])
        assert loading.wait(60)
        second = pool.submit(copy.copy(knowledge).query, ["otters"])
        wait([second], 0.2)  # as long as it would take to find nothing
        goes_on.set()
        assert first.result() == second.result() == ["Otters sleep hand in hand."]
    assert len(shelf.saved) == 1


def test_what_could_not_be_loaded_is_loaded_with_the_next_query() -> None:
    failures = [OSError("no such file")]

    class Failing(StringKnowledgeSource):
        def add(self) -> None:
            if failures:
                raise failures.pop()
            super().add()

    knowledge, _ = put_off(Failing(content="Otters sleep hand in hand."))
    with pytest.raises(OSError, match="no such file"):
        knowledge.query(["otters"])
    assert knowledge.query(["otters"]) == ["Otters sleep hand in hand."]
