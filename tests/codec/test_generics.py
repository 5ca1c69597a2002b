"""Generic models keep their arguments, wherever they were given them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from typing import Annotated, Any, Dict, List, Literal, Optional, Union  # noqa: UP035

import pytest
from pydantic import Field, RootModel

from codec.generic import NAMED, Item, Page, Pair
from codec.values import back, stored
from crewai_dbos._stored import generics, modules
from crewai_dbos._stored.codec import decode, encode
from crewai_dbos._stored.type_paths import load_type, type_path
from crewai_dbos.errors import UnstorableValueError


def local() -> list[Any]:
    """Classes that no module has a name for."""
    return [
        Page[Item],
        Page[Item.Inner],
        Page[Page[Item]],
        Page[list[Item]],
        Page[List[Item]],  # noqa: UP006
        Page[Dict[str, Any]],  # noqa: UP006
        Page[tuple[int, ...]],
        Page[Optional[Item]],  # noqa: UP045
        Page[Item | None],
        Page[Union[int, str]],  # noqa: UP007
        Page[Literal["a, b]", 1, None]],
        Pair[Item, dict[str, list[int]]],
        RootModel[list[Item]],
    ]


@pytest.mark.parametrize("cls", local(), ids=str)
def test_a_class_is_found_again(cls: Any) -> None:
    assert load_type(type_path(cls), generics.BaseModel) is cls


def test_a_value_comes_back() -> None:
    page = Page[Item](items=[Item(name="a")], next=2)
    found = back([page, Pair[Item.Inner, int](one=Item.Inner(size=1), two=2)])
    assert found == [page, Pair[Item.Inner, int](one=Item.Inner(size=1), two=2)]
    assert type(found[0]) is Page[Item]
    assert '"codec.generic:Page[codec.generic:Item]"' in stored(page)


FRESH = """
import sys, json
from crewai_dbos._stored import codec, modules
modules.defined_in(["codec.generic"])
import codec.generic as g
found = [codec.decode(each) for each in json.load(sys.stdin)]
print([type(each).__qualname__ for each in found])
assert type(found[0]) is g.Page[g.Item], found
assert type(found[1]) is g.Page[g.Page[g.Item]], found
assert type(found[2]) is g.Pair[g.Item | None, list[int]], found
"""


@pytest.mark.crash
def test_another_process_that_has_not_given_it_arguments_makes_the_class() -> None:
    from codec.other import Pages

    values = [Page[Item](), Pages(), Pair[Item | None, list[int]](one=None, two=[])]
    done = subprocess.run(
        [sys.executable, "-c", FRESH],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        input=json.dumps([encode(each) for each in values]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_what_an_earlier_version_has_stored_is_read() -> None:
    page = Page[Item](items=[Item(name="a")])
    old = json.loads(stored(page).replace("Page[codec.generic:Item]", "Page[Item]"))
    assert old["$model"] == "codec.generic:Page[Item]"
    assert decode(old) == page
    assert type(decode(old)).__name__ == "Page[Item]"
    assert (
        generics.before(type_path(Page[dict[str, Item]])) == "codec.generic:Page[dict[str, Item]]"
    )


def test_what_has_no_name_is_refused_with_the_fix() -> None:
    class Local(Item):
        pass

    with pytest.raises(UnstorableValueError, match="top level of a module"):
        encode(Page[Local]())
    known = Page[Local]
    assert type(back(known(), (known,))) is known
    with pytest.raises(UnstorableValueError, match="Derive a class"):
        encode(Page[Annotated[int, Field(gt=1)]]())


@pytest.mark.parametrize(
    "path",
    [
        "codec.generic:Item[codec.generic:Item]",
        "codec.generic:Page[]",
        "codec.generic:Page[os:system]",
        "codec.generic:Page[subprocess:Popen]",
        "codec.generic:Page[codec.generic:Item",
        "codec.generic:Page[codec.generic:Item]]",
        "codec.generic:Page[codec.generic:Item]x]",
        "codec.generic:Page[Union[]]",
        "codec.generic:Page[Literal[[1]]]",
        "builtins:list[codec.generic:Item]",
        "codec.generic:Page[builtins:str[builtins:int]]",
        "codec.generic:Page" + "[codec.generic:Page" * 40 + "]" * 41,
        "]",
    ],
)
def test_what_is_no_generic_model_is_not_made(path: str) -> None:
    with pytest.raises(UnstorableValueError):
        decode({"$model": path, "fields": {}, "set": []})


def test_models_of_a_library_are_made_only_if_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "_defining", set())
    path = "codec.generic:Page[builtins:frozenset[builtins:str]]"
    with pytest.raises(UnstorableValueError, match=r"allow_modules\('codec.generic'\)"):
        load_type(path, generics.BaseModel)
    monkeypatch.setattr(modules, "_allowed", {"codec"})
    assert load_type(path, generics.BaseModel) is Page[frozenset[str]]


def test_names_that_earlier_versions_gave_are_read_and_counted_as_the_same() -> None:
    moments = Page[datetime]  # which the program has
    assert load_type("codec.generic:Page[datetime]", generics.BaseModel) is moments
    same = {
        "m:Page[m:Item, None]": "m:Page[Item, NoneType]",
        "m:Page[Or[m:Item, None]]": "m:Page[Union[Item, NoneType]]",
        'm:Page[Literal["a]", 1, null, true]]': "m:Page[Literal['a]', 1, None, True]]",
    }
    for now, before in same.items():
        assert generics.before(now) == before == generics.before(before)


def test_a_variable_of_a_module_names_what_can_not_be_spelled() -> None:
    assert type_path(NAMED) == "codec.generic:Page[Sequence[int]]"
    assert load_type(type_path(NAMED), generics.BaseModel) is NAMED


def test_a_row_can_not_have_classes_made_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by paths that fail when the classes of their arguments have been made."""
    monkeypatch.setattr(generics, "MOST", generics._names + 20)
    monkeypatch.setattr(generics, "_tried", set())
    before = len(type.__subclasses__(Page))
    for number in range(50):
        path = f"codec.generic:Page[codec.generic:Page[Literal[{number + 10_000}]]x]"
        with pytest.raises(UnstorableValueError):
            load_type(path, generics.BaseModel)
    assert len(type.__subclasses__(Page)) - before < 20


@pytest.mark.parametrize("path", ["x]"])
def test_what_is_no_path_is_refused_and_not_an_error_of_another_kind(path: str) -> None:
    with pytest.raises(UnstorableValueError):
        load_type(path, generics.BaseModel)
