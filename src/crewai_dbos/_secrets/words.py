"""What a name says about the text that it is the name of."""

from __future__ import annotations

import re
from functools import lru_cache


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_ALWAYS = _set(
    "apikey apikeys auth authorization basicauth bearer cookie cookies cred credential credentials "
    "creds dbpass dsn hmac jwt oauth pass passcode passphrase passwd password passwords pat "
    "proxypass pwd rootpass sas secret secrets smtppass userinfo userpass webhook webhooks"
)
# Written without a mark between the words: PGPASSWORD, accountkey.
_ENDINGS = (
    *("password", "passwd", "passphrase", "pwd", "secret", "token", "credential", "credentials"),
    *("apikey", "accesskey", "accountkey", "authkey", "privatekey", "secretkey", "sharedkey"),
    *("signingkey", "masterkey", "licensekey", "encryptionkey", "connectionstring", "webhook"),
    "accesssignature",
)
_TOKENS = frozenset({"token", "tokens"})
_KEYS = frozenset({"key", "keys"})
_PAIRS = frozenset({("connection", "string"), ("conn", "str"), ("access", "signature")})
# Of a language model or of a list that comes in pages.
_NO_TOKEN = _set(
    "max min total num number count prompt completion input output cached reasoning thinking "
    "budget per used stop special pad eos bos unk sep cls mask next page continuation context "
    "window overlap chunk"
)
# In a table, a mapping or a program.
_NO_KEY = _set(
    "public primary foreign sort partition cache index group order lookup map json output input "
    "memory state field column row unique idempotency object config metadata message messages "
    "context text content score dict hot arrow natural range event parent item data locale "
    "translation result task tool any"
)
# What is said of a secret, and not the secret.
_ABOUT = _set(
    "age agent alg algorithm arn at audience backend board budget cache callback class cls config "
    "configuration cost count counter description dir directory disabled domain duration enabled "
    "encoding endpoint env error expiration expires expiry factory field file flow folder format "
    "func function grant handler header headers host hostname id ids interval issuer kwargs label "
    "len length lifetime limit limits lookup manager map message method mode model module name "
    "names options parallelism param parameter path pattern policy port prefix price process "
    "provider realm regex region required rotation schema scheme scope scopes server service "
    "settings size sock socket state status storage store strategy suffix timeout title ttl type "
    "types uri uris url urls usage user username validator var variable version"
)
_ADDRESS = frozenset({"url", "urls", "uri", "uris", "endpoint"})

_SAID = (
    *("type", "uri", "url", "email", "user", "username", "login", "name", "host", "port"),
    *("scope", "scopes", "region", "project_id", "client_id", "domain", "path", "version"),
)

_HARMLESS_HEADERS = _set(
    "accept accept-charset accept-encoding accept-language anthropic-beta anthropic-version "
    "api-version cache-control connection content-encoding content-length content-type date dnt "
    "expect host http-referer idempotency-key if-match if-modified-since if-none-match keep-alive "
    "openai-beta openai-organization openai-project openai-version origin pragma prefer range "
    "referer te traceparent tracestate transfer-encoding upgrade user-agent via x-correlation-id "
    "x-goog-api-client x-ms-client-request-id x-ms-version x-request-id x-requested-with "
    "x-title"
)
_HARMLESS_HEADER_PREFIXES = ("x-stainless-", "x-forwarded-", "sec-", "accept-")

_ORDINARY = _set(
    "password passw0rd postgres postgresql username localhost changeme undefined disabled required "
    "optional anonymous not-needed not_needed no-key-required unlimited application standard "
    "production development"
)
_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")


@lru_cache(maxsize=8192)
def names_a_secret(name: str) -> bool:
    """Whether a variable, a field, a header or an option called `name` holds a secret."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words:
        return False
    return _is_of_a_secret(words) and not _is_about(words)


def is_key(name: str) -> bool:
    """Whether `name` is ``key`` and nothing else: of a table as often as of a door."""
    return name.strip("-_").lower() in _KEYS


@lru_cache(maxsize=1024)
def is_harmless_header(name: str) -> bool:
    """Whether what a header called `name` says may be shown."""
    name = name.lower()
    return name in _HARMLESS_HEADERS or name.startswith(_HARMLESS_HEADER_PREFIXES)


def is_said(name: str) -> bool:
    """Whether a part of credentials called `name` is told to anybody: a user, an address."""
    return name.lower().replace("-", "_").endswith(_SAID)


def is_ordinary(text: str) -> bool:
    """Whether `text` is a word that texts contain in any case, or the name of a variable."""
    return text.lower() in _ORDINARY or _VARIABLE.fullmatch(text) is not None


def _is_of_a_secret(words: list[str]) -> bool:
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        if word in _TOKENS and not _NO_TOKEN.isdisjoint(words):
            continue
        if word in _KEYS and (len(words) == 1 or before in _NO_KEY):
            continue
        if word in _ALWAYS or word in _TOKENS or word in _KEYS or word.endswith(_ENDINGS):
            return True
        if (word, after) in _PAIRS:
            return True
    return False


def _is_about(words: list[str]) -> bool:
    *before, last = words
    if last not in _ABOUT:
        return False
    if last in _ADDRESS and any(word.startswith("webhook") for word in before):
        return False  # who knows the address may post there
    # An access key has an id that is shown to nobody either.
    return not (last == "id" and before[-1] in ("key", "secret"))
