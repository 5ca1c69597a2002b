"""Pickles that hold data. Any other is a program, and unpickling it runs it."""

from __future__ import annotations

import base64
import binascii
import io
import pickle
import pickletools
from typing import Any, NoReturn

# What `pickle.dumps` makes of None, bools, numbers, text, bytes, lists, tuples, dicts and sets.
_BUILD_DATA = frozenset(
    (
        *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE"),
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_SET", "ADDITEMS", "FROZENSET"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
        *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    )
)
_SCALARS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
)
_MOST_SHARED = 10
_GET = ("GET", "BINGET", "LONG_BINGET")
_PUT = ("PUT", "BINPUT", "LONG_BINPUT")

# What a pickle ends with whose parts do not fit together.
_UNREADABLE = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    LookupError,
    OverflowError,
    TypeError,
)


def read(text: str) -> Any:
    """The data in a pickle as DBOS stores it.

    Raises:
        ValueError: It builds anything else, or is none.
    """
    try:
        pickled = base64.b64decode(text, validate=True)
        _check(pickled)
        return _Reader(io.BytesIO(pickled)).load()
    except binascii.Error as error:
        raise ValueError(f"it is not base64: {error}") from None
    except _UNREADABLE as error:
        raise ValueError(f"it can't be read: {error}") from None


def _check(pickled: bytes) -> None:
    before, memoized, shared = "", 0, 0
    scalars: set[int] = set()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        name = opcode.name
        if name not in _BUILD_DATA:
            raise ValueError(f"it has {name} in it")
        if name in (*_PUT, "MEMOIZE"):
            place = memoized if name == "MEMOIZE" else int(argument or 0)
            # The number is a place in a list that would be made as long as that.
            if not 0 <= place <= count:
                raise ValueError(f"it has {name} {argument} in it")
            memoized += 1
            (scalars.add if before in _SCALARS else scalars.discard)(place)
        # Each may double what is read: some bytes of lists in lists are more than a machine holds.
        shared += name in _GET and int(argument or 0) not in scalars
        if shared > _MOST_SHARED:
            raise ValueError("it has too many lists, dicts or tuples in it more than once")
        before = before if name in ("PROTO", "FRAME") else name


def written(data: Any) -> str:
    """`data` as DBOS would store it.

    Raises:
        ValueError: It is nested too deeply.
    """
    try:
        return base64.b64encode(pickle.dumps(data)).decode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class _Reader(pickle.Unpickler):
    """Finds nothing, should the names above have overlooked a way to ask."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, _: Any) -> NoReturn:
        raise pickle.UnpicklingError("it asks for an object outside of it")
