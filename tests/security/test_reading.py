"""No code runs because a row says so."""

from __future__ import annotations

import enum
import json
import pickle
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crewai_dbos import allow_modules
from crewai_dbos._stored import modules
from crewai_dbos._stored.codec import decode, encode
from crewai_dbos._stored.errors import decode_error, encode_error
from crewai_dbos.errors import RecordedError, UnstorableValueError
from security import traps
from security.traps import nothing_runs

HERE = "security.traps"


@pytest.fixture(autouse=True, scope="module")
def traps_are_of_a_library() -> Iterator[None]:
    """No definition of this process belongs to their package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules, "_defining", set())
        yield


def model(path: str, /, **fields: Any) -> dict[str, Any]:
    return {"$model": path, "fields": fields, "set": []}


def data(path: str, /, **fields: Any) -> dict[str, Any]:
    return {"$dataclass": path, "fields": fields}


def derived(path: str, *args: Any, **more: Any) -> dict[str, Any]:
    return {"$derived": path, "args": list(args), **more}


REFUSED = {
    "a class that is no dataclass": data("subprocess:Popen", args="touch /tmp/x"),
    "a class of a function": data("types:FunctionType"),
    "one of ours that acts": data(f"{HERE}:Plain"),
    "a dataclass that acts when it goes": data(f"{HERE}:Deleting", path="/tmp/x"),
    "a model that acts when it goes": model(f"{HERE}:DeletingModel", path="/tmp/x"),
    "a temporary folder": data("tempfile:TemporaryDirectory", name="/tmp/x"),
    "an LLM": model("crewai.llms.base_llm:BaseLLM", model="x"),
    "a tool": model("crewai.tools.base_tool:Tool", name="x", description="x", func="x"),
    "an MCP server": model("crewai.mcp.config:MCPServerStdio", command="touch", args=["/tmp/x"]),
    "an error as a model": model("builtins:OSError"),
    "a model as an enum": {"$enum": "pydantic.main:BaseModel", "value": 1},
    "a value that is in no enum": {"$enum": f"{HERE}:LoudEnum", "value": 2},
    "a URL of a class of one's own": {"$url": f"{HERE}:LoudUrl", "value": "https://a"},
    "a class of any kind": {"$class": "subprocess:Popen"},
    "a defaultdict of anything": derived("collections:defaultdict", {"$class": "subprocess:Popen"}),
    "a defaultdict of a text": derived("collections:defaultdict", "x"),
    "bytes by their number": derived("builtins:bytearray", 2_000_000_000),
    "bytes by their number, derived": derived("builtins:bytes", 2_000_000_000),
    "a dict made of something": derived(f"{HERE}:LoudDict", [["a", 1]]),
    "a container that is none": derived(f"{HERE}:Plain", 1),
    "a field that is none": data(f"{HERE}:LoudData", __class__="x"),
    "a slot of Python's own": data("fractions:Fraction", _numerator=1),
    "numbers for a date": {"$datetime": 1},
    "a time that is none": {"$timedelta": ["1", "2", "3"]},
    "a float that is a text": {"$float": "1_000"},
    "a module": model("os:path"),
    "a function": {"$class": "os:system"},
    "a name inside an object": {"$class": "sys:modules.os"},
    "no path": model(""),
    "a path that is a number": {"$model": 1, "fields": {}, "set": []},
    "a form of later": {"$later": 1},
    "two forms in one": {"$tuple": [], "$set": []},
    "deeper than anything": json.loads("[" * 900 + "]" * 900),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_codec_never_writes_is_refused(name: str) -> None:
    with nothing_runs(), pytest.raises(UnstorableValueError):
        decode(REFUSED[name])


BUILT = {
    "a model": model(f"{HERE}:LoudModel", name="x"),
    "a dataclass": data(f"{HERE}:LoudData", name="x", trapped=1),
    "a flag of two": {"$enum": f"{HERE}:LoudFlag", "value": 3},
    "a dict": derived(f"{HERE}:LoudDict", pairs=[{"$tuple": ["a", 1]}]),
    "a list": derived(f"{HERE}:LoudList", items=[1, 2]),
    "a set": derived(f"{HERE}:LoudSet", {"$set": [1]}),
    "a text": derived(f"{HERE}:LoudStr", "x"),
}


@pytest.mark.parametrize("name", BUILT)
def test_nothing_but_fields_is_set(name: str) -> None:
    with nothing_runs():
        made = decode(BUILT[name])
        assert type(made).__module__ == HERE
    if name == "a model":
        assert made.__dict__ == {"name": "x"}
    if name == "a dataclass":
        assert made.__dict__ == {"name": "x", "trapped": 1}
    if name == "a dict":
        assert list(dict.items(made)) == [("a", 1)]
    if name == "a list":
        assert list(made) == [1, 2]


def error(path: str, **more: Any) -> dict[str, Any]:
    return {"type": path, "bases": [], "message": "m", "args": ["m"], "attrs": {}, **more}


ERRORS = {
    "a class with a constructor": error(f"{HERE}:LoudError"),
    "a base with a constructor": error("gone:Error", bases=[f"{HERE}:LoudError"]),
    "an attribute that is a property": error(f"{HERE}:LoudError", attrs={"trapped": 1}),
    "a class that is no error": error("subprocess:Popen", args=["touch /tmp/x"]),
    "an argument that is a class": error("builtins:ValueError", args=[REFUSED["an LLM"]]),
    "an attribute that is a class": error(
        "builtins:ValueError", attrs={"x": data(f"{HERE}:Plain"), "y": data(f"{HERE}:Deleting")}
    ),
    "a cause": error("builtins:ValueError", cause=error(f"{HERE}:LoudError")),
}


@pytest.mark.parametrize("name", ERRORS)
def test_no_constructor_of_an_error_is_called(name: str) -> None:
    with nothing_runs():
        made = decode_error(ERRORS[name])
    assert str(made) == "m"
    if name == "an attribute that is a class":
        assert vars(made) == {}
    if name == "a class with a constructor":
        assert type(made) is traps.LoudError
    if name == "a class that is no error":
        assert type(made) is RecordedError


@pytest.mark.parametrize(
    "found",
    [{}, [], "x", None, {"message": "Not Found"}, error("a:B", bases=[1]), error("a:B", more=1)],
    ids=repr,
)
def test_what_is_no_error_is_not_taken_for_one(found: Any) -> None:
    with pytest.raises(UnstorableValueError, match="not written by crewai-dbos"):
        decode_error(found)


# Modules ------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that is not imported, and leaves a file when it is."""
    name = f"never_imported_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(
        textwrap.dedent(f"""
            from pathlib import Path
            from pydantic import BaseModel
            Path({str(tmp_path / "imported")!r}).touch()
            class Note(BaseModel):
                text: str = ""
            class NoteError(Exception):
                pass
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def test_no_module_is_imported_because_a_row_names_it(module: str, tmp_path: Path) -> None:
    with pytest.raises(UnstorableValueError, match=rf"allow_modules\('{module}'\)"):
        decode(model(f"{module}:Note", text="x"))
    found = decode_error(error(f"{module}:NoteError", bases=["builtins:ValueError"]))
    assert isinstance(found, (RecordedError, ValueError))
    assert not (tmp_path / "imported").exists()


def test_a_module_that_is_allowed_is_imported(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "_allowed", set())
    allow_modules(module)
    assert decode(model(f"{module}:Note", text="x")).text == "x"
    assert (tmp_path / "imported").exists()
    with pytest.raises(TypeError, match="names of modules"):
        allow_modules(1)  # type: ignore[arg-type]


def test_a_module_that_the_definition_imports_in_a_function_is_imported(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = tmp_path / f"defines_{module}.py"
    definition.write_text(f"def tool():\n    from {module} import Note\n    return Note()\n")
    __import__(definition.stem)
    with pytest.raises(UnstorableValueError):
        decode(model(f"{module}:Note", text="x"))
    monkeypatch.setattr(modules, "_defining", {definition.stem})
    assert decode(model(f"{module}:Note", text="x")).text == "x"


def test_a_class_that_a_module_would_only_make_when_asked_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"lazy_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text("def __getattr__(name):\n    raise SystemExit(name)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__(name)
    with pytest.raises(UnstorableValueError, match="has no class 'Anything'"):
        decode(model(f"{name}:Anything"))
    del sys.modules[name]


# Foreign data -------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*REFUSED, *BUILT])
def test_a_users_own_data_is_never_read_as_a_form(name: str) -> None:
    if name == "deeper than anything":
        return
    theirs = {**REFUSED, **BUILT}[name]
    with nothing_runs():
        assert decode(json.loads(json.dumps(encode(theirs)))) == theirs
        nested = {"a": [theirs, {"$map": [theirs]}]}
        assert decode(json.loads(json.dumps(encode(nested)))) == nested


def test_what_is_written_can_be_read() -> None:
    """What would be refused when it is read is refused when it is written."""
    deep: list[Any] = []
    for _ in range(250):
        deep = [deep]
    for value in (deep, traps.Deleting("/tmp/x"), traps.LoudUrl("https://a"), pickle):
        with pytest.raises(UnstorableValueError):
            encode(value)
    shallow: list[Any] = []
    for _ in range(150):
        shallow = [shallow]
    assert decode(encode(shallow)) == shallow


# Objects that act when they are asked what they are ---------------------------------------


class Proxy:
    """As libraries put them into a module: it imports what it stands for when it is looked at."""

    @property
    def __class__(self) -> Any:
        return traps.spring("Proxy.__class__")

    def __getattr__(self, name: str) -> Any:
        return traps.spring(f"Proxy.{name}")


def test_what_a_module_holds_is_not_asked_whether_it_is_a_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traps, "lazy", Proxy(), raising=False)
    for form in (model(f"{HERE}:lazy"), model(f"{HERE}:lazy.Inner"), {"$class": f"{HERE}:lazy"}):
        with nothing_runs(), pytest.raises(UnstorableValueError):
            decode(form)
    with nothing_runs():
        assert type(decode_error(error(f"{HERE}:lazy"))) is RecordedError


def test_a_defaultdict_makes_only_what_is_built_in() -> None:
    assert decode(derived("collections:defaultdict", {"$class": "builtins:list"}))["x"] == []
    for path in (f"{HERE}:LoudModel", f"{HERE}:LoudData", f"{HERE}:LoudDict", "builtins:type"):
        with nothing_runs(), pytest.raises(UnstorableValueError, match="is not made from a record"):
            decode(derived("collections:defaultdict", {"$class": path}))
    with pytest.raises(UnstorableValueError, match="Unknown type tag"):
        decode({"a": {"$class": "builtins:list"}})


@pytest.mark.parametrize("tag", ["$set", "$frozenset", "$map"])
def test_keys_that_were_chosen_to_be_slow_are_refused(tag: str) -> None:
    alike = [(2**61 - 1) * number for number in range(5_000)]
    form = {tag: [[key, 0] for key in alike] if tag == "$map" else alike}
    with pytest.raises(UnstorableValueError, match="too many keys with one hash"):
        decode(form)
    assert len(decode({"$set": list(range(50_000))})) == 50_000


class SaysSomethingElse(Exception):
    """As many a client's errors do."""

    def __str__(self) -> str:
        return str(traps.spring("SaysSomethingElse.__str__"))

    def __setattr__(self, name: str, value: Any) -> None:
        traps.spring("SaysSomethingElse.__setattr__")


def test_an_error_is_not_asked_for_its_text() -> None:
    found = error(f"{__name__}:SaysSomethingElse", attrs={"a": 1}, cause=error("builtins:KeyError"))
    stand_in = {**found, "type": "gone:Error", "bases": [found["type"]]}
    for data in (found, stand_in):
        with nothing_runs():
            made = decode_error(data)
            assert str(made) == "m"
            assert isinstance(made, SaysSomethingElse)
            assert vars(made)["a"] == 1
            assert isinstance(made.__cause__, (KeyError, RecordedError))


def test_an_error_with_a_text_of_its_own_is_stored_again_as_it_was() -> None:
    made = decode_error(error(f"{__name__}:SaysSomethingElse"))
    assert type(made).__name__ == "SaysSomethingElse"
    assert encode_error(made)["type"] == f"{__name__}:SaysSomethingElse"
    assert encode_error(made)["message"] == "m"


def test_a_flag_can_not_be_made_to_fill_the_memory() -> None:
    """Its class keeps each combination for good, in most releases of Python."""
    for number in range(4, 10_000):
        try:
            decode({"$enum": f"{__name__}:Bits", "value": number})
        except UnstorableValueError:
            break
    assert len(Bits._value2member_map_) < 5_000


class Bits(enum.IntFlag):
    ONE = 1
    TWO = 2
