"""The forms that a secret takes in a text: escaped, encoded, split, masked."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote, quote_plus

INSTEAD = "***"
"""Stands where one was cut out."""

SHORTEST = 8
"""Characters; a shorter text would be found in others by chance."""

_H = "[0-9A-Fa-f]"
_C = "[89ABab]" + _H  # a byte that continues a character in UTF-8


def _utf8(mark: str) -> str:
    """A character in UTF-8, each byte of it in hex after `mark`."""
    longer = [f"[{lead}]{_H}" + f"{mark}{_C}" * more for lead, more in _LEADS]
    return mark + f"(?:[0-7]{_H}|{'|'.join(longer)})"


_X = r"\\x"
_LEADS = (("CcDd", 1), ("Ee", 2), ("Ff", 3))
_ESCAPES = {
    "%": _utf8("%"),
    "\\": rf"{_utf8(_X)}|\\u[Dd][89ABab]{_H}{{2}}\\u[Dd][C-Fc-f]{_H}{{2}}|\\u{_H}{{4}}|\\U{_H}{{8}}"
    rf"|\\x{_H}{{2}}|\\[\"'\\/bfnrt]",
    "&": rf"&(?:amp|lt|gt|quot|apos|nbsp|#[0-9]{{1,7}}|#[xX]{_H}{{1,6}});",
}
"""By what they begin with."""
_ANY = "".join(_ESCAPES)
_PATTERNS = {
    _ANY: re.compile("|".join(_ESCAPES.values())),
    **{mark: re.compile(pattern) for mark, pattern in _ESCAPES.items()},
}
_CONTROL = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}

# Where a text is broken into lines, shown as a literal or put together from several.
_SEPARATORS = "".join(map(chr, (*range(9, 14), 32, 0xA0, 0xAD, 0x200B, 0x2028, 0x2029, 0xFEFF)))
_SEPARATORS += "\"'`\\+,|\u2502"
_SQUEEZE = dict.fromkeys(map(ord, _SEPARATORS))

_PLAIN = re.compile(r"[A-Za-z0-9_.~-]*")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]")


class View:
    """A text as it reads when it is decoded or squeezed, and where its pieces were before.

    Args:
        text: The text as it reads now.
        outer: What it was made of.
        escapes: What was decoded for that, by its marks; None if it was squeezed.
    """

    def __init__(self, text: str, outer: View | None = None, escapes: str | None = None) -> None:
        self.text = text
        self._outer = outer
        self._escapes = escapes
        self._starts: list[int] | None = None

    def decoded(self, marks: str = _ANY) -> View | None:
        """This text with one level of escapes taken back; None if there are none.

        Args:
            marks: What these begin with: one of ``%``, a backslash and ``&``, or by default any.
        """
        if not any(mark in self.text for mark in marks):
            return None
        text, found = _PATTERNS[marks].subn(_character, self.text)
        return View(text, self, marks) if found else None

    def decoded_apart(self) -> Iterator[View]:
        """As `decoded`, one kind of escapes at a time, where there is more than one kind.

        What stands before a secret can be taken for the beginning of an escape of another kind.
        """
        marks = [mark for mark in _ESCAPES if mark in self.text]
        for mark in marks if len(marks) > 1 else ():
            if (view := self.decoded(mark)) is not None:
                yield view

    def squeezed(self) -> View | None:
        """This text without blanks, quotes and what else splits a literal; None if it has none."""
        text = squeezed(self.text)
        return None if len(text) == len(self.text) else View(text, self)

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Where the piece from `start` to `end` was in the text that all views were made of."""
        if self._outer is None:
            return start, end
        if self._starts is None:
            self._starts = list(self._places(self._outer.text))
        if self._escapes is None:
            return self._outer.origin(self._starts[start], self._starts[end - 1] + 1)
        return self._outer.origin(self._starts[start], self._starts[end])

    def _places(self, outer: str) -> Iterator[int]:
        if self._escapes is None:
            yield from (i for i, c in enumerate(outer) if ord(c) not in _SQUEEZE)
            return
        done = 0
        for found in _PATTERNS[self._escapes].finditer(outer):
            yield from range(done, found.start() + 1)
            done = found.end()
        yield from range(done, len(outer) + 1)


def squeezed(text: str) -> str:
    """`text` without the characters at which a secret is split."""
    return text.translate(_SQUEEZE)


def _character(found: re.Match[str]) -> str:
    """The one character that an escape stands for."""
    escape = found[0]
    kind = escape[:2]
    if escape[0] == "%" or (kind == "\\x" and (len(escape) > 4 or escape[2] < "8")):
        text = bytes.fromhex(escape.replace("%", "").replace("\\x", "")).decode("utf-8", "replace")
        return text if len(text) == 1 else "\ufffd"
    if escape[0] == "&":
        return html.unescape(escape) or "\ufffd"
    if kind == "\\u" and len(escape) > 6:
        pair = bytes.fromhex(escape.replace("\\u", ""))
        return pair.decode("utf-16-be")
    if kind in ("\\u", "\\U", "\\x"):
        code = int(escape[2:], 16)
        return chr(code) if code < 0x110000 else "\ufffd"
    return _CONTROL.get(escape[1], escape[1])


class Needle(NamedTuple):
    """What is looked for.

    Attributes:
        text: The text to look for.
        before: Whether the character of base64 before it holds some of the secret too.
        after: Whether the one after it does.
    """

    text: str
    before: bool = False
    after: bool = False

    def found_in(self, text: str) -> Iterator[tuple[int, int]]:
        """Where it is in `text`, with those characters and the padding."""
        at = text.find(self.text)
        while at >= 0:
            start, end = at, at + len(self.text)
            if self.before and start and _BASE64.match(text, start - 1):
                start -= 1
            if self.after and _BASE64.match(text, end):
                end += 1
            while self.after and text[end : end + 1] == "=":
                end += 1
            yield start, end
            at = text.find(self.text, at + len(self.text))


def needles(secret: str) -> Iterator[Needle]:
    """What to look for in a text and in each decoded view of it."""
    yield Needle(secret)
    if len(secret) < SHORTEST:
        return
    yield from _in_base64(secret)
    # A view of a text that has `secret` may be decoded further than to it.
    view = View(secret)
    while (decoded := view.decoded()) is not None and len(decoded.text) >= SHORTEST:
        view = decoded
        yield Needle(view.text)


def _in_base64(secret: str) -> Iterator[Needle]:
    """The middle of it: what does not depend on the bytes around, for the three ways it can lie."""
    data = secret.encode("utf-8", "surrogatepass")
    for offset in range(3):
        begin, end = 8 * offset, 8 * (offset + len(data))
        encoded = base64.b64encode(b"\0" * offset + data).decode()[-(-begin // 6) : end // 6]
        for text in {encoded, encoded.translate({43: 45, 47: 95})}:
            yield Needle(text, begin % 6 != 0, end % 6 != 0)


def written(secret: str) -> set[str]:
    """`secret` as encoders write it, where that is not as it is.

    Decoding a text finds these too, unless what stands before one makes an escape of its beginning.
    """
    if _PLAIN.fullmatch(secret):
        return set()
    once = _encoded(secret)
    twice = {form for text in once for form in _encoded(text)}
    return (once | twice) - {secret}


def _encoded(text: str) -> set[str]:
    data = text.encode("utf-8", "surrogatepass")
    literal = json.dumps(text)[1:-1]
    forms = {
        *(literal, literal.replace("/", "\\/"), json.dumps(text, ensure_ascii=False)[1:-1]),
        *(html.escape(text), html.escape(text, quote=False)),
        *(repr(text)[1:-1], ascii(text)[1:-1], repr(data)[2:-1]),
    }
    for encoded in (quote(data, safe=""), quote(data), quote_plus(data)):
        forms |= {encoded, re.sub("%..", lambda found: found[0].lower(), encoded)}
    return forms
