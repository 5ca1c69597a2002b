"""Answers in the form that a model is asked for."""

from __future__ import annotations

from typing import Any

from crewai_dbos.testing import Request


def any_value_of(request: Request) -> Any:
    """A value that fits the schema asked for."""
    schema = (request.response_format or {})["json_schema"]["schema"]
    return _fill(schema, schema.get("$defs", {}))


def _fill(schema: dict[str, Any], defs: dict[str, Any]) -> Any:
    if "$ref" in schema:
        return _fill(defs[schema["$ref"].rsplit("/", 1)[1]], defs)
    if "anyOf" in schema:
        return None if {"type": "null"} in schema["anyOf"] else _fill(schema["anyOf"][0], defs)
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    if kind == "object":
        return {name: _fill(sub, defs) for name, sub in schema.get("properties", {}).items()}
    return {"array": [], "string": "x", "integer": 1, "number": 0.5, "boolean": True}[str(kind)]
