"""Reads a definition without running it: what of it is recorded, and what to put right.

`inspect` gives a `Report`; ``crewai-dbos doctor module:object`` prints one.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from types import ModuleType
from typing import Any

from crewai import Agent, Crew
from crewai.flow.flow import Flow

from crewai_dbos._journal import run_scope
from crewai_dbos._secrets import known
from crewai_dbos._secrets.finding import secrets_in
from crewai_dbos.doctor import _rules, _subject
from crewai_dbos.doctor._report import Finding as Finding
from crewai_dbos.doctor._report import Item as Item
from crewai_dbos.doctor._report import Report as Report
from crewai_dbos.doctor._report import Severity as Severity

logger = logging.getLogger("crewai_dbos")

__all__ = ["Finding", "Item", "Report", "Severity", "inspect"]


def inspect(what: Any, *, module: ModuleType | None = None) -> Report:
    """Read a definition and what surrounds it. Nothing is called and nothing is stored.

    Args:
        what: A `DBOSAgent`, `DBOSCrew` or `DBOSFlow`, a crewAI `Agent` or `Crew`, or a flow or its
            class.
        module: The module it is defined in, to find the tasks there that are this agent's and,
            in its source, the config given to `DBOS`.

    Raises:
        TypeError: `what` is something else.

    Example::

        from crewai_dbos import doctor

        report = doctor.inspect(crew)
        assert not report.has_errors, report
    """
    subject = _subject.read(what, module)
    known.tell(secrets_in([what, *(item.live for item in subject.items)]))
    # A report goes into the log of a CI.
    hidden = known.hide
    return Report(
        hidden(subject.title),
        tuple(
            replace(item, name=hidden(item.name), owner=hidden(item.owner))
            for item in subject.items
        ),
        tuple(
            replace(found, what=hidden(found.what), fix=hidden(found.fix))
            for found in _rules.findings(subject)
        ),
    )


def warn(definition: Agent | Crew | Flow[Any]) -> None:
    """Log once each warning and error about a new definition that no run would log itself."""
    rules = tuple(rule for rule in _rules.RULES if rule not in _rules.SAID_LATER)
    try:
        findings = _rules.findings(_subject.read(definition, None), rules)
    except Exception:
        # Objects of the user's are looked at here, and advice must not be what breaks a program.
        logger.debug("The doctor could not read %r", definition, exc_info=True)
        return
    for finding in findings:
        if finding.severity != "hint":
            run_scope.warn_once(f"{finding.what} {finding.fix}")
