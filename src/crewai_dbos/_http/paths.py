"""Ids in the path of a URL. Users choose those of runs: they may have slashes and line breaks."""

from __future__ import annotations

from starlette.convertors import PathConvertor, register_url_convertor

_CONVERTOR = "crewai_dbos_id"


class _Id(PathConvertor):
    regex = "(?s:.*)"  # that of its base stops at a line break


register_url_convertor(_CONVERTOR, _Id())  # for the process, under a name of our own


def any_id(name: str) -> str:
    """The part of a route's path that is an id, which the endpoint is given as `name`."""
    return f"{{{name}:{_CONVERTOR}}}"


RUN = any_id("run_id")
KICKOFF = any_id("kickoff_id")
