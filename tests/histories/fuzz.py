"""Histories changed at random, in a process that is watched: `python -m histories.fuzz`.

Each is refused with a `ValueError`, or what is put into a database of it is read as DBOS reads it.
Neither imports, opens, runs or looks up anything.
"""

from __future__ import annotations

import base64
import codecs
import copy
import json
import pickle
import sys
from pathlib import Path
from typing import Any

from dbos._serialization import (
    DBOSDefaultSerializer,
    deserialize_args,
    deserialize_exception,
    deserialize_value,
)
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from crewai_dbos.testing._history_shape import checked
from support.entries import EVERY

HISTORIES = [
    json.loads(file.read_text()) for file in sorted(Path(__file__).parent.glob("*/*.json"))
]

watching = False
seen: list[str] = []


def watch(event: str, arguments: Any) -> None:
    if watching:
        seen.append(f"{event}: {arguments}"[:200])


class Program:
    """Pickled, a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


PICKLED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
).map(lambda data: Program(print, data)) | st.just(Program(Path, "nowhere"))


@st.composite
def pickles(draw: st.DrawFn) -> str:
    """A pickle, of a program or of data, with some of its bytes changed."""
    program = draw(PICKLED)
    data = draw(st.sampled_from([program, program._call[1], {"args": (), "kwargs": {}}]))
    made = bytearray(pickle.dumps(data, draw(st.integers(0, 5))))
    for at, byte in draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3)):
        made[at % len(made)] = byte
    return base64.b64encode(made).decode()


@st.composite
def changed(draw: st.DrawFn) -> Any:
    """A history with some of its values replaced, added or gone."""
    history = copy.deepcopy(draw(st.sampled_from(HISTORIES)))
    for _ in range(draw(st.integers(1, 4))):
        node: Any = history
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            assume(keys)
            key = draw(st.sampled_from(keys))
            inner = node[key]
            if not isinstance(inner, dict | list) or not inner or draw(st.integers(0, 4)) == 0:
                break
            node = inner
        how = draw(st.sampled_from(["replace", "replace", "replace", "delete", "add"]))
        if how == "replace":
            node[key] = draw(JUNK)
        elif how == "delete":
            del node[key]
        elif isinstance(node, dict):
            node[draw(st.text())] = draw(JUNK)
        else:
            node.append(copy.deepcopy(inner))
    return history


# Its explanations of a failure trace this process, which the watch hears of.
WATCHED = settings(
    max_examples=1000 if EVERY else 200,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)

JUNK = (
    pickles()
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["portable_json", "py_pickle", "custom_serializer", "[]", "{}", "null"])
    | st.lists(st.none(), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.none(), max_size=2)
)


def read(closed: Any) -> None:
    """As DBOS reads it."""
    for run in closed["runs"].values():
        deserialize_args(run["inputs"], run["serialization"], DBOSDefaultSerializer)
        for step in run["steps"]:
            label = step["serialization"]
            deserialize_value(step["output"], label, DBOSDefaultSerializer)
            deserialize_exception(step["error"], label, DBOSDefaultSerializer)


def refused(history: Any) -> bool:
    """Whether it is; asserts that nothing else happened."""
    global watching
    seen.clear()
    watching = True
    try:
        read(checked(history))
    except ValueError:
        return True
    finally:
        watching = False
        assert not seen, seen.copy()
    return False


@WATCHED
@given(changed())
def changed_anywhere(history: Any) -> None:
    counts[refused(history)] += 1


@WATCHED
@given(pickles(), st.sampled_from(["output", "error", "inputs"]))
def a_pickle_in_its_place(text: str, place: str) -> None:
    history = copy.deepcopy(OFFICE)
    run = history["runs"]["office"]
    (run if place == "inputs" else run["steps"][0])[place] = text
    if place == "error":
        run["steps"][0]["output"] = None
    counts[refused(history)] += 1


OFFICE = next(each for each in HISTORIES if each["run_id"] == "office")
counts = {True: 0, False: 0}

if __name__ == "__main__":
    codecs.lookup("raw_unicode_escape")  # Python imports it for the text of an old pickle
    assert not any(refused(history) for history in HISTORIES)
    sys.addaudithook(watch)
    changed_anywhere()
    a_pickle_in_its_place()
    print(json.dumps({"refused": counts[True], "read": counts[False]}))
