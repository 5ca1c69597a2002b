"""What a user passes as ``secrets=[...]``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from crewai_dbos._secrets.cutting import SHORTEST_GIVEN
from crewai_dbos.errors import DefinitionError


class Given(tuple[str, ...]):
    """Texts of which the user has said that they are secrets."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} secrets>"


NONE = Given()


def as_given(secrets: Any) -> Given:
    """What a user passed as ``secrets=[...]``.

    Raises:
        DefinitionError: It is no list of texts, or has one that texts contain by chance.
    """
    if isinstance(secrets, (str, bytes, Mapping)) or not isinstance(secrets, Iterable):
        raise DefinitionError(
            f"secrets is a list of strings or SecretStr, not a {type(secrets).__name__}"
        )
    texts = []
    for number, secret in enumerate(secrets):
        text = revealed(secret)
        if not isinstance(text, str):
            raise DefinitionError(
                f"secrets[{number}] is a {type(secret).__name__}, not a string or a SecretStr"
            )
        if len(text) < SHORTEST_GIVEN:
            raise DefinitionError(
                f"secrets[{number}] has fewer than {SHORTEST_GIVEN} characters. So short a text "
                "is found in others by chance, and cutting it out would hide what is no secret."
            )
        texts.append(text)
    return Given(texts)


def revealed(secret: Any) -> Any:
    """The text in a `SecretStr` of pydantic; anything else as it is."""
    reveal = getattr(type(secret), "get_secret_value", None)
    return secret if reveal is None else reveal(secret)
