"""Dates and times with their zone: ``{"$datetime": "...", "zone": "Europe/Berlin", "fold": 1}``.

A day later in a named zone may be 23 hours later, so what is stored of one is not its offset alone.
"""

from __future__ import annotations

import logging
import zoneinfo
from collections.abc import Callable
from datetime import datetime, time, timezone
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from pydantic_core import TzInfo

from crewai_dbos._stored import forms
from crewai_dbos._stored.forms import Json, is_text
from crewai_dbos._stored.type_paths import import_path
from crewai_dbos.errors import UnstorableValueError

logger = logging.getLogger("crewai_dbos")

PARTS = ("zone", "class", "name", "fold")

_told: set[str] = set()


def written(value: datetime | time, path: Callable[[type], str]) -> Json:
    """The form of a date with a time, or of a time.

    Args:
        value: It, of the built-in class.
        path: Gives the path of a class, or refuses it.
    """
    tag = "$datetime" if isinstance(value, datetime) else "$time"
    form: dict[str, Json] = {tag: value.isoformat(), **_zone(value, path)}
    if value.fold:
        form["fold"] = 1
    return form


def _zone(value: datetime | time, path: Callable[[type], str]) -> dict[str, Json]:
    zone: Any = value.tzinfo
    if zone is None or type(zone) is TzInfo:
        return {}
    if type(zone) is timezone:
        # Only what was given a name has a second argument.
        named = zone.__getinitargs__()[1:]  # type: ignore[attr-defined]
        return {"name": named[0]} if named and is_text(named[0]) else {}
    if not isinstance(zone, ZoneInfo):
        _tell(zone, "its class is none of zoneinfo")
        return {}
    if zone.key not in _known():
        _tell(zone, "it is not in the database of time zones")
        return {}
    if type(zone) is ZoneInfo:
        return {"zone": zone.key}
    try:
        forms.check_data(type(zone))
        found: dict[str, Json] = {"zone": zone.key, "class": path(type(zone))}
    except UnstorableValueError:
        _tell(zone, "its class can't be imported")
        return {}
    if _comes_back(value, zone):
        return found
    _tell(zone, "its class keeps more than the key of a zone")
    return {}


def written_zone(zone: ZoneInfo | timezone) -> dict[str, Json]:
    """The form of a zone that stands alone, of one of these classes.

    Raises:
        UnstorableValueError: It is not in the database of time zones.
    """
    if isinstance(zone, ZoneInfo):
        if zone.key not in _known():
            raise UnstorableValueError(f"{zone!r} is not in the database of time zones.")
        return {"$zone": zone.key}
    offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
    parts = [offset.days, offset.seconds, offset.microseconds]
    return {"$offset": parts, **({"name": name[0]} if name else {})}


def read_zone(key: str) -> ZoneInfo:
    """The zone of a ``$zone``."""
    if key not in _known():  # looked up first: ZoneInfo itself would open or import what it says
        raise UnstorableValueError(
            f"The database of time zones of this machine has no {key!r}. Install one: the package "
            "tzdata"
        )
    return ZoneInfo(key)


def _comes_back(value: datetime | time, zone: ZoneInfo) -> bool:
    """Whether a zone that is made of the key alone says of `value` what `zone` does."""
    try:
        again: Any = ZoneInfo.__new__(type(zone), zone.key)
        told = [
            (each.utcoffset(), each.dst(), each.tzname(), getattr(each.tzinfo, "__dict__", {}))
            for each in (value, value.replace(tzinfo=again))
        ]
    except Exception:  # of the user's class
        return False
    return told[0] == told[1]


def read(form: dict[str, Any], load: Callable[[str], type]) -> Any:
    """The reverse of `written`.

    Args:
        form: The form.
        load: Gives the class of a zone at a path, or refuses it.
    """
    tag = next(iter(form))
    kind: Any = datetime if tag == "$datetime" else time
    value = kind.fromisoformat(form[tag])
    if "zone" in form:
        value = value.replace(tzinfo=_zone_of(form, load))
    elif "name" in form:
        value = value.replace(tzinfo=timezone(value.utcoffset(), form["name"]))
    return value.replace(fold=form.get("fold", 0))


def _zone_of(form: dict[str, Any], load: Callable[[str], type]) -> ZoneInfo:
    zone = read_zone(form["zone"])
    if "class" not in form:
        return zone
    cls = load(form["class"])
    forms.check_data(cls)
    return ZoneInfo.__new__(cls, zone.key)


@cache
def _known() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def _tell(zone: Any, reason: str) -> None:
    """Say once that dates with this zone come back with its offset."""
    name = f"{import_path(type(zone))} {getattr(zone, 'key', None) or zone}"
    if name not in _told:
        _told.add(name)
        logger.warning(
            "The zone of a date that is recorded (%s) comes back from the journal as the offset "
            "that it had, and that of a time without one not at all: %s. Use zoneinfo.ZoneInfo.",
            name,
            reason,
        )
