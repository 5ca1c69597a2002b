"""The forms in which a server, a library or a program can repeat a secret."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus


def _base64(before: str, after: str, encode: Callable[[bytes], bytes]) -> Callable[[str], str]:
    return lambda secret: encode(f"{before}{secret}{after}".encode()).decode()


def _percent(encode: Callable[[str], str]) -> Callable[[str], str]:
    def lower(secret: str) -> str:
        first, *rest = encode(secret).split("%")
        return "%".join([first, *(part[:2].lower() + part[2:] for part in rest)])

    return lower


def _escaped(secret: str) -> str:
    """Every character as JSON may escape it."""
    units = secret.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2))


FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda secret: secret,
    "JSON": lambda secret: json.dumps(secret)[1:-1],
    "JSON, not only ASCII": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    "JSON, as for a page": lambda secret: json.dumps(secret)[1:-1].replace("/", "\\/"),
    "JSON, every character": _escaped,
    "JSON in JSON": lambda secret: json.dumps(json.dumps(secret))[1:-1],
    "URL": lambda secret: quote(secret, safe=""),
    "URL, in lower case": _percent(lambda secret: quote(secret, safe="")),
    "URL, but for slashes": quote,
    "form": quote_plus,
    "URL in a URL": lambda secret: quote(quote(secret, safe=""), safe=""),
    "JSON in a URL": lambda secret: quote(json.dumps({"key": secret}), safe=""),
    "HTML": html.escape,
    "HTML in HTML": lambda secret: html.escape(html.escape(secret)),
    "HTML, by number": lambda secret: "".join(c if c.isalnum() else f"&#{ord(c)};" for c in secret),
    "repr": lambda secret: repr(secret)[1:-1],
    "ascii": lambda secret: ascii(secret)[1:-1],
    "repr of bytes": lambda secret: repr(secret.encode())[2:-1],
    "base64": _base64("", "", base64.b64encode),
    "base64 without padding": lambda secret: base64.b64encode(secret.encode()).decode().rstrip("="),
    "base64 for URLs": _base64("", "", base64.urlsafe_b64encode),
    "Basic, user:": _base64("user:", "", base64.b64encode),
    "Basic, me:": _base64("me:", "", base64.b64encode),
    "Basic, a:": _base64("a:", "", base64.b64encode),
    "Basic, key:": _base64("", ":", base64.b64encode),
    "base64 in the middle, for URLs": _base64("of/", "?>more", base64.urlsafe_b64encode),
    "base64 in a URL": lambda secret: quote(base64.b64encode(secret.encode()), safe=""),
    "split over lines": lambda secret: f"{secret[:7]}\n      {secret[7:]}",
    "split into literals": lambda secret: f"{secret[:7]}' + '{secret[7:]}",
    "split by a blank": lambda secret: f"{secret[:7]} {secret[7:]}",
    "split in JSON": lambda secret: json.dumps(f"{secret[:7]}\n{secret[7:]}")[1:-1],
}
"""By name. Each gives a text that a reader can get the secret from."""

MASKED: dict[str, Callable[[str], str]] = {
    "masked by stars": lambda secret: f"{secret[:7]}*****{secret[-4:]}",
    "masked by dots": lambda secret: f"{secret[:5]}...{secret[-4:]}",
    "masked by an ellipsis": lambda secret: f"{secret[:4]}…{secret[-3:]}",
    "masked but for the end": lambda secret: f"****{secret[-4:]}",
    "masked but for the beginning": lambda secret: f"{secret[:8]}********",
}
"""What a provider shows of a key that it refuses."""
