"""Dates and numbers keep their class, their zone and what they are worth in it."""

from __future__ import annotations

import logging
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.values import back, stored
from crewai_dbos._stored.codec import decode, encode
from crewai_dbos.errors import UnstorableValueError
from support.examples import examples

BERLIN = ZoneInfo("Europe/Berlin")


class Berlin(ZoneInfo):
    """As pendulum has its own zones."""


class Moved(ZoneInfo):
    """A zone that its class moves, by what is in it besides a key."""

    by: timedelta = timedelta(0)

    def utcoffset(self, when: Any) -> Any:
        found = super().utcoffset(when)
        return None if found is None else found + self.by


class Summer(ZoneInfo):
    """One that its class alone moves."""

    def utcoffset(self, when: Any) -> timedelta:
        return timedelta(hours=3)


def moved() -> ZoneInfo:
    zone = Moved.no_cache("Europe/Berlin")
    zone.by = timedelta(hours=2)
    return zone


class Moment(datetime):
    def in_words(self) -> str:
        return f"in {self.year}"

    def isoformat(self, *args: Any) -> str:
        return "now"


class Day(date):
    def __new__(cls, text: str) -> Day:
        return super().__new__(cls, *map(int, text.split("-")))


class Noon(time):
    pass


class Span(timedelta):
    unit: str


class Money(Decimal):
    currency: str

    def __str__(self) -> str:
        return f"{Decimal.__str__(self)} {self.currency}"


class Key(UUID):
    pass


class Folder(type(Path())):  # type: ignore[misc]
    def files(self) -> int:
        return 0


class Slotted(Decimal):
    __slots__ = ("currency",)


class Offset(tzinfo):
    def utcoffset(self, when: Any) -> timedelta:
        return timedelta(hours=2)

    def dst(self, when: Any) -> timedelta:
        return timedelta(0)

    def tzname(self, when: Any) -> str:
        return "mine"


def span() -> Span:
    made = Span(1, 2, 3)
    made.unit = "d"
    return made


def money() -> Money:
    made = Money("1.50")
    made.currency = "EUR"
    return made


ZONED = [
    datetime(2026, 3, 28, 12, tzinfo=BERLIN),
    datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    datetime(2026, 10, 25, 2, 30, fold=1),
    datetime(2026, 3, 28, 12, tzinfo=timezone(timedelta(hours=1), "CET")),
    datetime(2026, 3, 28, 12, tzinfo=Berlin("Europe/Berlin")),
    datetime(2026, 3, 28, 12, tzinfo=Summer("Europe/Berlin")),
    time(3, tzinfo=BERLIN),
    time(3, tzinfo=timezone.utc),
    time(3, fold=1),
]


@pytest.mark.parametrize("value", ZONED, ids=repr)
def test_a_zone_comes_back(value: Any) -> None:
    found = back({"at": [value]})["at"][0]
    assert found == value
    assert found.fold == value.fold
    assert type(found.tzinfo) is type(value.tzinfo)
    assert found.tzname() == value.tzname()
    assert repr(found) == repr(value)


def test_a_zone_that_its_key_does_not_tell_comes_back_as_an_offset(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "crewai_dbos")
    value = datetime(2026, 3, 28, 12, tzinfo=moved())
    found = back(value)
    assert found == value
    assert found.isoformat() == "2026-03-28T12:00:00+03:00"
    (line,) = [record.getMessage() for record in caplog.records]
    assert "Moved" in line
    assert "comes back from the journal as the offset" in line


def test_a_day_later_is_the_same_as_before() -> None:
    begins = datetime(2026, 3, 28, 12, tzinfo=BERLIN)
    later = back(begins) + timedelta(days=1)
    assert later.isoformat() == "2026-03-29T12:00:00+02:00"
    assert (back(begins) + timedelta(days=1)).isoformat() == (
        begins + timedelta(days=1)
    ).isoformat()


NAMED = st.timezone_keys(allow_prefix=False).map(ZoneInfo)
ZONED_MOMENTS = st.datetimes(timezones=NAMED)


@examples(30, 100)
@given(ZONED_MOMENTS, st.times(timezones=NAMED))
def test_any_zone_comes_back(moment: datetime, at: time) -> None:
    found = back([moment, at])
    assert [(each, each.tzinfo, each.fold) for each in found] == [
        (each, each.tzinfo, each.fold) for each in (moment, at)
    ]


@pytest.mark.parametrize(
    "value",
    [
        Moment(2026, 3, 28, 12, tzinfo=BERLIN, fold=1),
        Day("2026-03-28"),
        Noon(12, tzinfo=timezone.utc),
        span(),
        money(),
        Key(int=7),
        Folder("a/b"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_own_class_comes_back(value: Any) -> None:
    found = back(value)
    assert type(found) is type(value)
    assert found == value
    assert repr(found) == repr(value)
    assert getattr(found, "__dict__", None) == getattr(value, "__dict__", None)
    assert back({value: [value]}) == {value: [value]}


def test_what_a_library_makes_of_dates_comes_back() -> None:
    pendulum = pytest.importorskip("pendulum")
    value = pendulum.datetime(2026, 3, 28, 12, tz="Europe/Berlin")
    found = back([value, pendulum.date(2026, 3, 28), pendulum.duration(days=3)])
    assert type(found[0]) is type(value)
    assert found[0].add(days=1) == value.add(days=1)
    assert found[0].start_of("day").isoformat() == "2026-03-28T00:00:00+01:00"
    assert found[1:] == [pendulum.date(2026, 3, 28), pendulum.duration(days=3)]
    assert repr(found[2]) == repr(pendulum.duration(days=3))


def test_what_can_not_come_back_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    class Local(Decimal):
        pass

    mine = datetime(2026, 3, 28, 12, tzinfo=Offset())
    with caplog.at_level(logging.WARNING, "crewai_dbos"):
        assert type(back(Slotted("1.5"))) is Decimal
        assert type(back(Local("1.5"))) is Decimal
        assert back(mine) == mine
        back(mine)
    told = [("Slotted" in line, "Local" in line, "Offset" in line) for line in caplog.messages]
    assert told == [(True, False, False), (False, True, False), (False, False, True)]


def test_a_class_that_is_not_here_comes_back_plain_and_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    form = encode(money())
    gone = {**form, "$derived": "codec.gone:Money"}
    with caplog.at_level(logging.WARNING, "crewai_dbos"):
        found = decode(gone)
    assert (type(found), found) == (Decimal, Decimal("1.50"))
    assert "codec.gone:Money" in caplog.text


@pytest.mark.parametrize(
    "form",
    [
        {"$datetime": "2026-03-28T12:00:00+01:00", "zone": "../../../../etc/passwd"},
        {"$datetime": "2026-03-28T12:00:00+01:00", "zone": "Europe/Nowhere"},
        {"$datetime": "2026-03-28T12:00:00+01:00", "zone": ["Europe/Berlin"]},
        {"$datetime": "2026-03-28T12:00:00+01:00", "zone": "Europe/Berlin", "class": "os:system"},
        {
            "$datetime": "2026-03-28T12:00:00+01:00",
            "zone": "Europe/Berlin",
            "class": "codec.values:Animal",
        },
        {"$datetime": "2026-03-28T12:00:00", "name": "CET"},
        {"$datetime": "2026-03-28T12:00:00", "fold": 2},
        {"$datetime": "2026-03-28T12:00:00", "$time": "12:00"},
        {"$datetime": 1},
        {"$time": "12:00", "more": 1},
        {"$derived": "codec.test_times:Moment", "args": ["2026-03-28"]},
        {"$derived": "codec.test_times:Moment", "args": [{"$date": "2026-03-28"}]},
    ],
    ids=repr,
)
def test_what_is_none_is_refused(form: Any) -> None:
    with pytest.raises(UnstorableValueError):
        decode(form)


def test_what_earlier_versions_have_stored_is_read() -> None:
    old = datetime(2026, 3, 28, 12, tzinfo=timezone(timedelta(hours=1)))
    assert stored(old) == '{"$datetime": "2026-03-28T12:00:00+01:00"}'
    assert decode({"$time": "12:00:00"}) == time(12)
