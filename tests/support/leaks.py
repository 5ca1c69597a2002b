"""What runs leave behind in a process: objects, counted by their types."""

from __future__ import annotations

import gc
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from crewai.events.utils import handlers

from crewai_dbos._objects import events
from crewai_dbos.testing import ModelServer

_CACHES = (handlers._get_param_count_cached, events._in_place)
"""Keep so many of the handlers that crewAI makes for each run of an agent."""

_COUNTED = ("crewai.", "crewai_dbos.", "dbos.")
"""All else belongs to these, or to a library or a test, which keeps some for later."""


def left_by(
    server: ModelServer, work: Callable[[], object], runs: int, *, rounds: int = 3
) -> dict[str, int]:
    """The types of which each of so many runs leaves an object behind, with how many all leave.

    What runs leave they leave each time, while caches fill and threads come and go: so the round
    counts in which fewest were left.

    Args:
        server: The model server in this process, which keeps what it was asked.
        work: Carries out `runs` runs.
        runs: So many.
        rounds: How often.
    """
    with _no_log_kept():
        counts = [_objects(server)]
        for _ in range(rounds):
            work()
            counts.append(_objects(server))
    more = [after - before for before, after in itertools.pairwise(counts)]
    least = {name: min(each[name] for each in more) for name in more[0]}
    return {name: count for name, count in least.items() if count >= runs}


@contextmanager
def _no_log_kept() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _objects(server: ModelServer) -> Counter[str]:
    for cache in _CACHES:
        cache.cache_clear()
    server._app._requests.clear()
    gc.collect()
    found: Counter[str] = Counter()
    for each in gc.get_objects():
        name = f"{type(each).__module__}.{type(each).__qualname__}"
        if name.startswith(_COUNTED):
            found[name] += 1
        elif type(each) is dict and "tool_calls" in each:  # of texts alone it would not be here
            found["a message"] += 1
    return found
