"""What the doctor says: items, findings, and the report of both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "hint"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "hint")
"""Worst first."""


@dataclass(frozen=True)
class Item:
    """A part of the definition that does something while a run is on.

    Attributes:
        kind: ``llm``, ``tool``, ``callback``, ``guardrail``, ``memory``, ...
        name: Tells it apart from others of its kind.
        owner: The agent, task or crew that it belongs to, or ``process``.
        seam: What records it, mostly the name of its journal entries; None if nothing does.
        recovery: What happens to its finished calls when a run is recovered.
        live: The object itself.
        holder: The object that has it, where several of one kind can be called as its `owner` is.
    """

    kind: str
    name: str
    owner: str
    seam: str | None
    recovery: str
    live: Any = field(default=None, repr=False, compare=False)
    holder: Any = field(default=None, repr=False, compare=False)

    @property
    def recorded(self) -> bool:
        return self.seam is not None

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "owner": self.owner,
            "recorded": self.recorded,
            "seam": self.seam,
            "recovery": self.recovery,
        }


@dataclass(frozen=True)
class Finding:
    """Something that a reader should know or change.

    Attributes:
        rule: The rule that found it, as a word for scripts and searches.
        severity: ``error``: a run would fail, be refused or give away a secret. ``warning``: a
            recovery does something again or otherwise. ``hint``: worth knowing, or can't be told
            from the code.
        what: What it is.
        fix: What to do.
    """

    rule: str
    severity: Severity
    what: str
    fix: str

    def as_json(self) -> dict[str, str]:
        return {
            "rule": self.rule,
            "severity": self.severity,
            "what": self.what,
            "fix": self.fix,
        }


@dataclass(frozen=True)
class Report:
    """What `inspect` found.

    Attributes:
        subject: What was inspected, in words.
        items: Every part that does something in a run.
        findings: Worst first.
    """

    subject: str
    items: tuple[Item, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "items": [item.as_json() for item in self.items],
            "findings": [finding.as_json() for finding in self.findings],
        }


def found(rule: str, severity: Severity, what: str, fix: str) -> Finding:
    """A finding, with `what` begun as a sentence."""
    return Finding(rule, severity, what[0].upper() + what[1:], fix)
