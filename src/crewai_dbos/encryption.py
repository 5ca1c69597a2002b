"""Content that only the application can read: a serializer for the DBOS config.

pip install 'crewai-dbos[encryption]'

from crewai_dbos.encryption import EncryptedSerializer

DBOS(config={"name": "support", "serializer": EncryptedSerializer.from_environment()})
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from dbos import Serializer

from crewai_dbos._dbos_seam.serializer import DBOSDefaultSerializer
from crewai_dbos.errors import SealedError

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError as missing:  # pragma: no cover
    raise ImportError(
        "crewai_dbos.encryption needs the package cryptography: "
        "pip install 'crewai-dbos[encryption]'"
    ) from missing

VARIABLE = "CREWAI_DBOS_KEYS"

_NONCE = 12
_KEY = 32
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_JSON, _OTHER = "j", "o"


def generate_key() -> str:
    """A new random key of 256 bits, as base64: what `EncryptedSerializer` takes.

    Example::

        from crewai_dbos.encryption import generate_key

        print(f"CREWAI_DBOS_KEYS=2026-12={generate_key()}")
    """
    return base64.b64encode(AESGCM.generate_key(8 * _KEY)).decode()


class EncryptedSerializer(Serializer):
    """Encrypts what DBOS stores, with AES-256-GCM: content of ours and of your own workflows.

    Put it into the DBOS config of every process that runs or reads runs. What stays in the clear:
    names of definitions, tasks, agents, methods and tools, kinds of calls, times, token counts,
    statuses, workflow ids. Rows that were written before are still read.

    Args:
        keys: Keys by an id that is stored with what they encrypt: 32 bytes, or base64 of them. The
            first one encrypts; all of them decrypt. To rotate, put a new one first and keep the old
            ones for as long as something that they encrypted is to be read.
        inner: Writes what is not plain JSON, as arguments of your own workflows may be; DBOS's
            default, pickle, if not given.

    Raises:
        ValueError: A key or an id is unusable; none of them is repeated in the message.

    Example::

        from crewai_dbos.encryption import EncryptedSerializer, generate_key
        from dbos import DBOS

        serializer = EncryptedSerializer({"2026-12": generate_key()})
        DBOS(config={"name": "support", "serializer": serializer})
    """

    def __init__(self, keys: Mapping[str, bytes | str], inner: Serializer | None = None) -> None:
        if not keys:
            raise ValueError("EncryptedSerializer needs a key: {'2026-12': generate_key()}")
        self._keys = {key_id: _checked(key_id, key) for key_id, key in keys.items()}
        self._current = next(iter(self._keys))
        self._ciphers = {key_id: AESGCM(key) for key_id, key in self._keys.items()}
        self._inner = inner or DBOSDefaultSerializer

    @classmethod
    def from_environment(
        cls, variable: str = VARIABLE, inner: Serializer | None = None
    ) -> EncryptedSerializer:
        """One with the keys of an environment variable.

        Args:
            variable: Its name. Its value is ``id=base64``, or several of these with commas between,
                the one that encrypts first.
            inner: As of the class.

        Raises:
            ValueError: The variable is missing, or not of that form.

        Example::

            import os

            from crewai_dbos.encryption import EncryptedSerializer, generate_key
            from dbos import DBOS

            os.environ["CREWAI_DBOS_KEYS"] = f"2026-12={generate_key()}"  # as a secret store would
            config = {"name": "support", "serializer": EncryptedSerializer.from_environment()}
        """
        value = os.environ.get(variable, "")
        if not value.strip():
            raise ValueError(
                f"{variable} is not set. It holds the keys as id=base64, with commas between; make "
                "one with crewai_dbos.encryption.generate_key()."
            )
        pairs = [pair.strip().partition("=") for pair in value.split(",") if pair.strip()]
        if len({key_id for key_id, _, _ in pairs}) < len(pairs):
            raise ValueError(f"{variable} has two keys with one id")
        return cls({key_id: key for key_id, _, key in pairs}, inner)

    def name(self) -> str:
        """What DBOS stores beside a row to say how to read it."""
        return "crewai_dbos.aes_gcm"

    def serialize(self, data: Any) -> str:
        """`data`, encrypted with the first key."""
        text = _as_json(data)
        kind, text = (_OTHER, self._inner.serialize(data)) if text is None else (_JSON, text)
        head = f"1.{self._current}.{kind}"
        nonce = os.urandom(_NONCE)
        encrypted = self._ciphers[self._current].encrypt(nonce, text.encode(), head.encode())
        return f"{head}.{base64.b64encode(nonce + encrypted).decode()}"

    def deserialize(self, serialized_data: str) -> Any:
        """The reverse of `serialize`.

        Raises:
            SealedError: Its key is not among those given, or it was changed since.
        """
        version, key_id, kind, body = (*serialized_data.split("."), "", "", "", "")[:4]
        if version != "1" or kind not in (_JSON, _OTHER):
            raise SealedError("this was not written by EncryptedSerializer")
        if key_id not in self._ciphers:
            raise SealedError(
                f"it is encrypted with the key {key_id!r}, which is not among those given: "
                f"{', '.join(map(repr, self._ciphers))}"
            )
        try:
            data = base64.b64decode(body, validate=True)
            head = f"1.{key_id}.{kind}".encode()
            text = self._ciphers[key_id].decrypt(data[:_NONCE], data[_NONCE:], head).decode()
        except (InvalidTag, ValueError):
            raise SealedError(
                f"it can't be decrypted with the key {key_id!r}: it was changed, or that id has "
                "another key now"
            ) from None
        return json.loads(text) if kind == _JSON else self._inner.deserialize(text)

    def digest_key(self, key_id: str | None = None) -> tuple[str, bytes]:
        """What makes digests in names of calls say nothing to who has not the key.

        Args:
            key_id: The id that was stored with the run; None for a new one.

        Returns:
            The id and 32 bytes.

        Raises:
            SealedError: There is no such key.
        """
        key_id = self._current if key_id is None else key_id
        if key_id not in self._keys:
            raise SealedError(f"the run was recorded with the key {key_id!r}, which is not given")
        return key_id, hashlib.sha256(b"crewai_dbos digests" + self._keys[key_id]).digest()


def _checked(key_id: Any, key: Any) -> bytes:
    if not isinstance(key_id, str) or not _ID.fullmatch(key_id):
        raise ValueError("The id of a key is a text of letters, digits, - and _, of 64 at most")
    try:
        raw = base64.b64decode(key, validate=True) if isinstance(key, str) else key
    except ValueError:
        raise ValueError(f"The key {key_id!r} is not base64. Make one: generate_key()") from None
    if not isinstance(raw, bytes) or len(raw) != _KEY:
        raise ValueError(f"The key {key_id!r} does not have {_KEY} bytes. Make one: generate_key()")
    return raw


def _as_json(data: Any) -> str | None:
    """`data` as JSON if that is all that there is to it."""
    try:
        return json.dumps(data) if _is_plain(data) else None
    except (ValueError, RecursionError):
        return None


def _is_plain(data: Any) -> bool:
    kind = type(data)
    if kind is dict:
        return all(type(key) is str and _is_plain(item) for key, item in data.items())
    if kind is list:
        return all(map(_is_plain, data))
    return data is None or kind in (str, int, float, bool)
