"""A tool cache that agents of one crew share: which of them finds a result is recorded.

It depends on who was faster, and must not be different on recovery.
"""

from __future__ import annotations

from typing import Any

from crewai.agents.cache.cache_handler import CacheHandler

from crewai_dbos._classes import overrides
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._stored import names


@overrides(CacheHandler)
class RecordedCache(CacheHandler):
    """A `CacheHandler` whose reads are entries."""

    def read(self, tool: str, input: str) -> Any:
        found = super().read
        scope = run_scope.enclosing()
        if scope is None:
            return found(tool=tool, input=input)
        scope = scope.around or scope
        call = Call(
            names.by_content(names.CACHE, [tool, input]),
            kind="cache",
            concurrent=True,
            as_text=str,
        )
        return scope.run(call, lambda: found(tool=tool, input=input))
