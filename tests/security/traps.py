"""Classes that leave a trace when any code of theirs runs, as a row may name those of a library."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import AnyUrl, BaseModel, PrivateAttr

sprung: list[str] = []
"""What has run."""


@contextmanager
def nothing_runs() -> Iterator[None]:
    """No trap is sprung in the block."""
    sprung.clear()
    yield
    assert sprung == []


def spring(name: str) -> Any:
    sprung.append(name)
    return name


class Plain:
    """Neither a model nor a dataclass."""

    def __init__(self, *args: Any) -> None:
        spring("Plain.__init__")

    def __call__(self, *args: Any) -> None:
        spring("Plain.__call__")


class _Loud:
    """Every way to be made or changed is a trap."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        spring(f"{cls.__name__}.__new__")
        return super().__new__(cls)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        spring(f"{cls.__name__}.__init_subclass__")

    def __setattr__(self, name: str, value: Any) -> None:
        spring(f"{type(self).__name__}.__setattr__")
        object.__setattr__(self, name, value)

    @property
    def trapped(self) -> Any:
        return 0

    @trapped.setter
    def trapped(self, value: Any) -> None:
        spring(f"{type(self).__name__}.trapped")


@dataclass
class LoudData(_Loud):
    name: str = ""

    def __post_init__(self) -> None:
        spring("LoudData.__post_init__")


class LoudModel(BaseModel):
    name: str = ""
    _opened: Any = PrivateAttr(default_factory=lambda: spring("LoudModel._opened"))

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        spring("LoudModel.__new__")
        return super().__new__(cls)

    def model_post_init(self, context: Any) -> None:
        spring("LoudModel.model_post_init")

    def __setattr__(self, name: str, value: Any) -> None:
        spring("LoudModel.__setattr__")


@dataclass
class Deleting:
    """As a temporary file: what it does when it goes, it does to the path that it holds."""

    path: str = ""

    def __del__(self) -> None:
        spring("Deleting.__del__")


class DeletingModel(BaseModel):
    path: str = ""

    def __del__(self) -> None:
        spring("DeletingModel.__del__")


class LoudError(Exception):
    def __new__(cls, *args: Any) -> Any:
        spring("LoudError.__new__")
        return super().__new__(cls)

    def __init__(self, command: str) -> None:
        spring("LoudError.__init__")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        spring("LoudError.__init_subclass__")

    @property
    def trapped(self) -> Any:
        return 0

    @trapped.setter
    def trapped(self, value: Any) -> None:
        spring("LoudError.trapped")


class LoudEnum(enum.Enum):
    ONE = 1

    @classmethod
    def _missing_(cls, value: Any) -> Any:
        spring("LoudEnum._missing_")
        return cls.ONE


class LoudFlag(enum.Flag):
    ONE = 1
    TWO = 2

    @classmethod
    def _missing_(cls, value: Any) -> Any:
        spring("LoudFlag._missing_")
        return cls.ONE


class LoudUrl(AnyUrl):
    def __init__(self, url: Any) -> None:
        spring("LoudUrl.__init__")
        super().__init__(url)


class LoudDict(dict):  # type: ignore[type-arg]
    def __new__(cls, *args: Any) -> Any:
        spring("LoudDict.__new__")
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        spring("LoudDict.__init__")

    def __setitem__(self, key: Any, value: Any) -> None:
        spring("LoudDict.__setitem__")


class LoudList(list):  # type: ignore[type-arg]
    def append(self, item: Any) -> None:
        spring("LoudList.append")

    def extend(self, items: Any) -> None:
        spring("LoudList.extend")


class LoudSet(set):  # type: ignore[type-arg]
    def update(self, *items: Any) -> None:
        spring("LoudSet.update")


class LoudStr(str):
    def __new__(cls, *args: Any) -> Any:
        spring("LoudStr.__new__")
        return super().__new__(cls, *args)
