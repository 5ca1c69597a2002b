"""Credentials that can be told by the text they stand in: passwords in URLs, keys of known shape.

Every pattern is bounded, so that none takes longer than its text is long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from crewai_dbos._secrets.words import is_key, names_a_secret

_W = "[A-Za-z0-9_-]"

_SHAPES = (
    rf"sk-(?=[A-Za-z_-]{{0,64}}[0-9]){_W}{{16,}}",
    r"[spr]k_(?:live|test)_[A-Za-z0-9]{10,}",
    r"gh[opsur]_[A-Za-z0-9]{20,}",
    r"github_pat_[A-Za-z0-9_]{20,}",
    rf"gl(?:pat|dt|rt|cbt|ptt|oas)-{_W}{{16,}}",
    r"xox[a-z]-[A-Za-z0-9-]{10,}",
    r"xapp-[A-Za-z0-9-]{10,}",
    r"A(?:KIA|SIA)[A-Z0-9]{16}",
    rf"AIza{_W}{{30,}}",
    rf"ya29\.{_W}{{20,}}",
    rf"GOCSPX-{_W}{{20,}}",
    r"(?:hf|gsk|npm|r8)_[A-Za-z0-9]{20,}",
    rf"(?:xai|nvapi|pplx|tvly|pypi|whsec|pcsk|lsv2_pt|lsv2_sk|dop_v1|shpat)[-_]{_W}{{20,}}",
    rf"SG\.{_W}{{16,}}\.{_W}{{16,}}",
    rf"eyJ{_W}{{8,}}\.{_W}{{8,}}\.{_W}*",
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?:[A-Za-z0-9+/=\s\\:,]|-(?!----))*"
    r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----)?",
    # As providers show a key that they refuse.
    rf"(?:[spr]k|gh[opsur]|github_pat|glpat|xox[a-z]|hf|gsk|xai)[-_]{_W}{{0,40}}[*\u2022]{{3,}}"
    rf"[A-Za-z0-9_*\u2022-]{{0,60}}",
)
_SHAPE = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(_SHAPES)})")
_LONG = 1000
_BEGINNINGS = (
    *("sk-", "sk_", "pk-", "pk_", "rk-", "rk_", "ghp", "gho", "ghs", "ghu", "ghr", "github"),
    *("glpat-", "gldt-", "glrt-", "glcbt-", "glptt-", "gloas-", "xox", "xapp-", "AKIA", "ASIA"),
    *("AIza", "ya29.", "GOCSPX-", "hf_", "hf-", "gsk", "npm_", "r8_", "xai", "nvapi", "pplx"),
    *("tvly", "pypi", "whsec", "pcsk", "lsv2", "dop_v1", "shpat", "SG.", "eyJ", "-----BEGIN "),
)

_PORT = r"[0-9]{1,5}(?:[/?#\s\"'<>,)\]}\\]|$)"
# With what belongs in it only if it is escaped, as far as that can be told.
_URL_PASSWORD = re.compile(
    rf"://[^\s/?#:@\"'<>]{{0,128}}:(?!{_PORT}|[/\\])"
    # No other URL begins in it, so that no text is gone through for two of them.
    r"((?:[^\s\"'<>@:]|:(?!//)){1,256}(?:@[^\s/?#\"'<>@:]{1,256}(?=@)){0,8})@"
)
_URL_TOKEN = re.compile(r"://([A-Za-z0-9_.~-]{20,256})@")
_IN_QUERY = re.compile(r"(?:[?&;#]|--)([A-Za-z][\w.\[\]-]{0,63})=([^\s&#\"'<>\\,;)\]}|]+)")
_QUERY_NAMES = frozenset({"sig", "signature", "x-amz-signature", "googleaccessid"})
_ASSIGNED = re.compile(
    r"(?<![A-Za-z0-9])(?:password|passwd|pwd|AccountKey|SharedAccessKey|SharedAccessSignature)"
    r"\s?=\s?(?!None\b|null\b|True\b|False\b|[/*])"
    r"(\"[^\"\n]{1,256}\"|'[^'\n]{1,256}'|[^\s;,&\"'<>)\]}\\]+)",
    re.IGNORECASE,
)
_SCHEME = re.compile(
    r"\s*(?:Basic|Bearer|Bot|Token|Api-?Key|GenieKey|SSWS|Negotiate|Digest)\s+(\S{8,})\s*",
    re.IGNORECASE,
)


def credentials(text: str) -> Iterator[tuple[int, int]]:
    """Where in `text` a credential begins and ends, known or not."""
    # A long text has none of them, mostly, which is found out sooner so.
    if len(text) < _LONG or any(beginning in text for beginning in _BEGINNINGS):
        yield from (found.span() for found in _SHAPE.finditer(text))
    if "://" in text:
        yield from _groups(_URL_PASSWORD, text)
        yield from _groups(_URL_TOKEN, text)
    if "=" in text:
        lower = text.lower()
        if any(name in lower for name in ("passw", "pwd", "accountkey", "sharedaccess")):
            yield from _groups(_ASSIGNED, text)
        for found in _IN_QUERY.finditer(text):
            if _is_credential_in_query(found[1]):
                yield found.span(2)


def after_scheme(text: str) -> str | None:
    """What follows the scheme of an authorization header; None if `text` is none."""
    found = _SCHEME.fullmatch(text)
    return found[1] if found else None


def _groups(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    return (found.span(1) for found in pattern.finditer(text))


def _is_credential_in_query(name: str) -> bool:
    return name.lower() in _QUERY_NAMES or names_a_secret(name) or is_key(name)
