"""Where the definitions of this process are found by name."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from crewai_dbos._runs import live_processes, origin
from crewai_dbos._runs.definition import AgentDefinition, CrewDefinition, FlowDefinition
from crewai_dbos._secrets import finding, known
from crewai_dbos.errors import DefinitionError

logger = logging.getLogger("crewai_dbos")


class _Definition(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def source(self) -> Any: ...

    @property
    def owner(self) -> Any: ...


D = TypeVar("D", bound=_Definition)


class Registry(Generic[D]):
    """The definitions of one kind in this process, by name.

    Args:
        noun: What such a definition is of.
        cls: The class that makes one.
    """

    def __init__(self, noun: str, cls: str) -> None:
        self.noun = noun
        self.cls = cls
        self._definitions: dict[str, D] = {}
        self._sites: dict[str, origin.Site | None] = {}
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self._changed = threading.Condition()

    def add(self, definition: D) -> None:
        """Register `definition`, know its secrets, and wake the runs that wait for it.

        Raises:
            DefinitionError: Its name is empty, or taken by what was not loaded anew since.
        """
        known.tell(finding.secrets_in(definition))
        name = definition.name
        if not isinstance(name, str) or not name.strip():
            raise DefinitionError(
                f"{self.noun}_name must be a non-empty string: it is how a run finds its "
                f"{self.noun} again after a restart"
            )
        with self._changed:
            site = origin.site()
            if name in self._definitions:
                if site is None or not site.was_loaded_anew_since(self._sites.get(name)):
                    raise DefinitionError(
                        f"{self.noun.capitalize()} {name!r} is defined already. Give each "
                        f"{self.cls} its own {self.noun}_name, and build it once, where the module "
                        "is imported. In a notebook build it at the top of a cell, not in a "
                        "function: a cell that is run again replaces it."
                    )
                logger.warning(
                    "%s %r is defined anew: runs that begin or go on from now on are of this one.",
                    self.noun.capitalize(),
                    name,
                )
            self._sites[name] = site
            origin.note(definition.source, definition.owner)
            self._definitions[name] = definition
            waiting = self._waiting.pop(name, [])
            self._changed.notify_all()
        live_processes.watch()
        for wake in waiting:
            wake()

    def find(self, name: str, timeout: float = 0.0) -> D | None:
        """The definition called `name`, waiting up to `timeout` seconds for it."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._definitions, timeout)
            return self._definitions.get(name)

    def when_added(self, name: str, wake: Callable[[], None]) -> None:
        """Call `wake` once, as soon as there is a definition called `name`."""
        with self._changed:
            if name not in self._definitions:
                self._waiting.setdefault(name, []).append(wake)
                return
        wake()

    def names(self) -> list[str]:
        with self._changed:
            return sorted(self._definitions)

    def module_of(self, name: str) -> str | None:
        """The name of the user's module that has made the definition called `name`."""
        with self._changed:
            site = self._sites.get(name)
            return None if site is None else site.module


agents: Registry[AgentDefinition] = Registry("agent", "DBOSAgent")
crews: Registry[CrewDefinition] = Registry("crew", "DBOSCrew")
flows: Registry[FlowDefinition] = Registry("flow", "DBOSFlow")

REGISTRIES: dict[str, Registry[Any]] = {each.noun: each for each in (agents, crews, flows)}


def definitions() -> dict[str, list[str]]:
    """The names of all definitions of this process, by noun."""
    return {noun: registry.names() for noun, registry in REGISTRIES.items()}
