"""Texts of models and of strangers, as a terminal may show them."""

from __future__ import annotations

import re


def plain(text: object) -> str:
    """`text` in one line, without what would move a cursor or change a colour."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", str(text)).replace("\n", " ")


def plain_lines(text: object) -> str:
    """The same in as many lines as it has."""
    return "\n".join(map(plain, str(text).splitlines()))
