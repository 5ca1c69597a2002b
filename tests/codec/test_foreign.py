"""Objects of an SDK that have no JSON form, in an answer of an LLM."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Iterator, MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest
from crewai.utilities.agent_utils import extract_tool_call_info, is_tool_call_list

from codec.values import back
from crewai_dbos._stored.foreign import as_data
from crewai_dbos.errors import UnstorableValueError


class Fields(MutableMapping[str, Any]):
    """As azure-ai-inference has its models: a mapping whose keys are attributes too."""

    def __init__(self, **fields: Any) -> None:
        self._data = fields

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_data"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._data[key] = value

    def __delitem__(self, key: str) -> None:
        del self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


@pytest.mark.parametrize("make", [Fields, SimpleNamespace])
def test_a_call_of_a_tool_is_one_afterwards(make: Any) -> None:
    call = make(id="call_1", type="function", function=make(name="search", arguments="{}"))
    (stored,) = back(as_data([call]))
    assert is_tool_call_list([stored])
    assert extract_tool_call_info(stored) == ("call_1", "search", "{}")
    assert stored.function.name == stored["function"]["name"] == "search"
    assert not hasattr(stored, "function_call")
    assert repr(stored.function) == f"{make.__name__}({{'name': 'search', 'arguments': '{{}}'}})"
    # It may be kept in a flow's state, and stored again.
    assert back(stored) == stored


def test_what_has_a_form_is_left_alone() -> None:
    assert as_data({"calls": ("text", 1, None)}) == {"calls": ("text", 1, None)}


@pytest.mark.parametrize("value", [threading.Lock(), print, object, [Fields(lock=object())]])
def test_what_shows_nothing_of_itself_is_refused(value: Any) -> None:
    with pytest.raises(UnstorableValueError):
        as_data(value)


def test_it_can_be_copied_as_crewai_copies_a_state() -> None:
    (recorded,) = back(as_data([SimpleNamespace(part=[1], name="search")]))
    for copied in (
        copy.copy(recorded),
        copy.deepcopy(recorded),
        pickle.loads(pickle.dumps(recorded)),
    ):
        assert copied == recorded
        assert copied.name == "search"


def test_credentials_that_it_holds_are_left_out() -> None:
    headers = Fields(Authorization="Bearer sk-1", token="of the user")
    request = SimpleNamespace(headers=headers, api_key="sk-1", url="u")
    (recorded,) = back(as_data([SimpleNamespace(request=request, text="a")]))
    assert recorded.text == "a"
    assert "sk-1" not in repr(recorded)
    assert recorded.request.headers["token"] == "of the user"


@pytest.mark.parametrize("make", [Fields, SimpleNamespace])
def test_an_object_in_several_places_has_one_copy(make: Any) -> None:
    shared = make(arguments="{}")
    copied = as_data({"calls": [make(function=shared), make(function=shared)]})
    first, second = copied["calls"]
    assert first is not second
    assert first.function is second.function
    assert back(copied) == copied


def test_objects_that_share_all_they_have_are_copied_once_each() -> None:
    top: Any = SimpleNamespace(name="leaf")
    for _ in range(40):
        top = SimpleNamespace(left=top, right=top)
    copied = as_data(top)
    assert copied.left is copied.right
    assert copied.left.left.right.left is copied.right.right.left.right
