"""Programs with one fault."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from typer.testing import Result

from doctor.conftest import report


@dataclass(frozen=True)
class Fault:
    """A program, and the finding that it is there for.

    Attributes:
        name: Of the module; the object is called ``x``.
        source: What follows the head that they have in common.
        rule: The rule that finds the fault; None if there is no fault.
        severity: Of the finding.
        says: Parts of what it says.
        env: The environment.
        fix: Part of its fix.
    """

    name: str
    source: str
    rule: str | None = None
    severity: str = ""
    says: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    fix: str = ""


def check(fault: Fault, result: Result) -> None:
    """The doctor has found the fault, and nothing else."""
    found: list[dict[str, Any]] = report(result)["findings"]
    expected = [] if fault.rule is None else [(fault.rule, fault.severity)]
    assert [(finding["rule"], finding["severity"]) for finding in found] == expected
    for part in fault.says:
        assert part in found[0]["what"]
    assert not fault.fix or fault.fix in found[0]["fix"]
    assert all(value not in result.output for value in fault.env.values() if len(value) > 9)
    assert result.exit_code == (1 if fault.severity == "error" else 0)
