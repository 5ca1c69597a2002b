"""What is stored of an error besides itself: its causes, and no secrets."""

from __future__ import annotations

import openai

from codec.errors import Demanding, error_back, response, stored_error
from crewai_dbos._stored.errors import MAX_CAUSES


def chained(*errors: Exception) -> Exception:
    """The last of them, each caused by the one before."""
    cause: Exception | None = None
    for error in errors:
        try:
            raise error from cause
        except Exception as raised:
            cause = raised
    assert cause is not None
    return cause


def causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__
    return found


def test_the_causes_of_an_error_come_back() -> None:
    limit = openai.RateLimitError("slow", response=response(429), body=None)
    decoded = error_back(chained(limit, KeyError("k"), RuntimeError("at last")))
    kinds = [type(error) for error in causes(decoded)]
    assert kinds == [RuntimeError, KeyError, openai.RateLimitError]
    assert [str(error) for error in causes(decoded)] == ["at last", "'k'", "slow"]


def test_what_was_being_handled_counts_as_the_cause() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError:
            raise RuntimeError("second")  # noqa: B904
    except RuntimeError as error:
        decoded = error_back(error)
    assert isinstance(decoded.__cause__, KeyError)


def test_a_long_or_circular_chain_ends() -> None:
    long = error_back(chained(*(ValueError(n) for n in range(50))))
    assert len(causes(long)) == MAX_CAUSES
    one, two = ValueError(1), ValueError(2)
    one.__cause__, two.__cause__ = two, one
    assert len(causes(error_back(one))) == 2


def test_a_secret_is_not_stored_with_an_error() -> None:
    secret = "sk-live-0123456789"
    inner = openai.AuthenticationError(
        f"Incorrect API key provided: {secret}",
        response=response(401),
        body={"message": secret, "code": f"bad {secret}", "param": secret},
    )
    error = chained(inner, Demanding(1, detail=secret), KeyError(secret))
    text = stored_error(error, secret)
    assert secret not in text
    decoded = causes(error_back(error, secret))
    assert str(decoded[-1]) == "Incorrect API key provided: ***"
    assert [type(link) for link in decoded] == [KeyError, Demanding, openai.AuthenticationError]


def test_an_empty_api_key_does_not_blank_the_message() -> None:
    assert str(error_back(ValueError("a message"), "", "a")) == "a message"
