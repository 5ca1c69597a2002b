"""Any JSON at all in a row: nothing is run, imported, opened, started or deleted."""

from __future__ import annotations

import copy
import gc
import inspect
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from codec.values import values
from crewai_dbos._dbos_seam.rows import RecordedRow
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.entry import read_entry
from crewai_dbos._stored import codec, modules, work_order
from crewai_dbos._stored.codec import decode, encode
from crewai_dbos._stored.errors import decode_error
from crewai_dbos.errors import CrewaiDbosError, UnstorableValueError
from security import traps
from support.examples import examples

pytestmark = pytest.mark.thorough

# Watching -----------------------------------------------------------------------------

_HARMFUL = ("exec", "import", "open", "compile", "os.", "shutil.", "subprocess.", "socket.")
_HARMFUL += ("tempfile.", "ctypes.", "pty.", "sqlite3.", "urllib.", "code.", "marshal.", "pickle.")
_watching = False
_seen: list[str] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    # Sources of modules that are imported already are read, to know what they import.
    if _watching and event.startswith(_HARMFUL) and not _is_a_source(event, args):
        _seen.append(f"{event} {args!r}"[:200])


def _is_a_source(event: str, args: tuple[Any, ...]) -> bool:
    if event in ("compile", "os.listdir", "os.scandir"):
        return event == "compile" and args[1] in (None, "<unknown>", b"<unknown>")
    return event == "open" and isinstance(args[0], str) and args[0] in _sources


_sources: set[str] = set()
sys.addaudithook(_audit)  # for good, so it does nothing but while it is watched


@contextmanager
def harmless() -> Iterator[None]:
    """Nothing happens in the block that Python audits as an effect, and no trap is sprung."""
    global _watching
    _seen.clear()
    _sources.update(path for m in list(sys.modules.values()) if (path := getattr(m, "__file__", 0)))
    before = set(sys.modules)
    with traps.nothing_runs():
        _watching = True
        try:
            yield
            gc.collect(0)
        finally:
            _watching = False
    assert _seen == []
    assert set(sys.modules) == before


@pytest.fixture(autouse=True, scope="module")
def traps_are_of_a_library() -> Iterator[None]:
    """No definition of this process belongs to their package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules, "_defining", set())
        yield


# What may stand in a row ----------------------------------------------------------------

IMPORTED = frozenset(
    (
        *("os", "subprocess", "tempfile", "pathlib", "shutil", "threading", "zipfile"),
        *("sqlalchemy", "httpx", "openai", "crewai", "dbos"),
    )
)


def loaded() -> st.SearchStrategy[str]:
    """The classes of these that are here when the first row is made."""
    return st.sampled_from(
        [
            f"{cls.__module__}:{cls.__qualname__}"
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] in IMPORTED
            for cls in list(vars(module).values())
            if inspect.isclass(cls)
        ]
    )


OWN = [f"{traps.__name__}:{name}" for name, cls in vars(traps).items() if inspect.isclass(cls)]
ABSENT = ["antigravity:x", "this:x", "turtle:Turtle", "idlelib.run:main", "os:system", "", ":", "a"]

paths = st.sampled_from(OWN) | st.deferred(loaded) | st.sampled_from(ABSENT) | st.text()
tags = st.sampled_from(
    [
        *("$model", "$dataclass", "$derived", "$class", "$enum", "$url", "$map", "$tuple", "$set"),
        *("$frozenset", "$path", "$bytes", "$str", "$int", "$float", "$decimal", "$uuid", "$date"),
        *("$datetime", "$time", "$timedelta", "$sealed", "$later"),
    ]
)
keys = st.sampled_from(
    ["fields", "set", "extra", "private", "args", "items", "pairs", "state", "value", "path", "by"]
)
scalars = st.none() | st.booleans() | st.integers(-5, 10**9) | st.floats() | st.text() | paths


def _forms(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = st.dictionaries(
        st.sampled_from(["name", "path", "args", "trapped"]) | st.text(), inner
    )
    whole = st.one_of(
        st.builds(lambda p, f: {"$model": p, "fields": f, "set": []}, paths, fields),
        st.builds(lambda p, f: {"$dataclass": p, "fields": f}, paths, fields),
        st.builds(lambda p, a: {"$derived": p, "args": a}, paths, st.lists(inner, max_size=2)),
        st.builds(lambda p, v: {"$enum": p, "value": v}, paths, inner),
        st.builds(lambda p: {"$class": p}, paths),
    )
    odd = st.builds(
        lambda tag, body, more: {tag: body, **more},
        tags,
        paths | inner,
        st.dictionaries(keys, inner, max_size=4),
    )
    return whole | odd | st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)


rows = st.recursive(scalars, _forms, max_leaves=12)
errors = st.builds(
    lambda path, bases, args, attrs, cause: {
        "type": path,
        "bases": bases,
        "message": "m",
        "args": args,
        "attrs": attrs,
        **({"cause": cause} if cause is not None else {}),
    },
    paths,
    st.lists(paths, max_size=3),
    st.lists(rows, max_size=2),
    st.dictionaries(st.text(), rows, max_size=3),
    st.none() | rows,
)

fuzzed = examples(80, 400, suppress_health_check=[HealthCheck.too_slow], derandomize=False)


@fuzzed
@given(rows)
def test_a_value(row: Any) -> None:
    with harmless(), suppress(UnstorableValueError):
        decode(row)


@fuzzed
@given(errors | rows)
def test_an_error(row: Any) -> None:
    with harmless():
        try:
            made = decode_error(row)
        except UnstorableValueError:
            return
        assert isinstance(made, Exception)


@fuzzed
@given(rows | errors, st.sampled_from(["result", "error", "extra", "request", "salt", "sealed"]))
def test_an_entry(row: Any, part: str) -> None:
    payload = {"v": 2, "kind": "llm", "result": 1, part: row}
    if part in ("error", "sealed"):
        del payload["result"]
    with harmless():
        entry = read_entry(RecordedRow(1, "agent:a#1/llm#1", payload))
        assert entry is not None
        with suppress(CrewaiDbosError):
            found = entry.payload()
            codec.decode(found.get("extra", {}))
            Call("llm", kind="llm").read(entry.name, found)
            entry.changes(Call("llm", kind="llm", request={"messages": "x"}))


@fuzzed
@given(rows, st.sampled_from([1, 2]), st.booleans())
def test_an_order(row: Any, version: int, has_forms: bool) -> None:
    stored = {
        "v": version,
        "crew": "c",
        "inputs": row,
        **({"forms": ["inputs"]} if has_forms else {}),
    }
    with harmless():
        try:
            opened = work_order.opened(stored)
            found = work_order.field(opened, "inputs")
        except CrewaiDbosError:
            return
    if version == 2 and not has_forms:
        assert found is row


@fuzzed
@given(values, st.data())
def test_a_value_of_which_a_piece_was_changed(value: Any, drawn: Any) -> None:
    row = json.loads(json.dumps(encode(value)))
    changed = _changed(row, drawn)
    with harmless(), suppress(UnstorableValueError):
        decode(changed)


def _changed(row: Any, drawn: Any) -> Any:
    """`row` with another value or key at one place."""
    row = copy.deepcopy(row)
    at = row
    while True:
        inner = list(at) if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else ()
        if not inner:
            return drawn.draw(rows)
        key = drawn.draw(st.sampled_from(list(inner)))
        if isinstance(at[key], (dict, list)) and at[key] and drawn.draw(st.booleans()):
            at = at[key]
            continue
        at[key] = drawn.draw(rows | paths)
        return row


def test_the_watch_sees_what_it_is_for(tmp_path: Path) -> None:
    for act in (
        lambda: (tmp_path / "x").write_text("x"),
        lambda: __import__("antigravity_that_is_not_there"),
        lambda: traps.Plain(),
    ):
        with pytest.raises((AssertionError, ImportError)), harmless():
            act()
