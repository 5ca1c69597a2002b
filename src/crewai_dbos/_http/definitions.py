"""The definitions that can be kicked off here, and kicking one off."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from contextvars import copy_context
from typing import Any

from dbos import SetWorkflowID

from crewai_dbos._http.problems import Problem
from crewai_dbos.control import Control
from crewai_dbos.errors import DefinitionError, MissingDefinitionError

_INPUT = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]*")
"""The name of an input, as crewAI fills it in; other braces in a text are no inputs."""


PATIENCE = 20.0
"""Seconds that a kickoff may take until it is left alone."""

AT_ONCE = 20
"""Kickoffs at the same time."""


class Definitions:
    """Crews and flows by their names. They are objects of the caller's: nothing is imported here.

    Args:
        definitions: Each a `DBOSCrew` or a `DBOSFlow`.

    Raises:
        DefinitionError: One is neither, or two are called the same.
    """

    def __init__(self, definitions: Iterable[Any]) -> None:
        self._by_name: dict[str, Any] = {}
        self._free = threading.BoundedSemaphore(AT_ONCE)
        for each in definitions:
            name = _name_of(each)
            if name in self._by_name:
                raise DefinitionError(f"Two of the definitions are called {name!r}.")
            self._by_name[name] = each

    @property
    def are_known(self) -> bool:
        """Whether anything could be kicked off here."""
        return bool(self._by_name)

    def names(self) -> list[str]:
        return sorted(self._by_name)

    def chosen(self, name: str | None, among: list[str]) -> str:
        """The name of the one that is meant: without a `name` the only one.

        Args:
            name: What somebody asks for.
            among: Those that they may kick off.

        Raises:
            Problem: There are none here, or several.
            MissingDefinitionError: There is none of this name.
        """
        if not self.are_known:
            raise Problem(
                501,
                "Nothing can be kicked off here: this process was given no definitions. Start it "
                'with router(control, definitions=[...]) or definitions="workers", or kick off '
                "where they are.",
                "no-definitions",
            )
        if name is None and len(among) > 1:
            raise Problem(
                422,
                f"Which definition? There are {', '.join(among)}.",
                "which-definition",
                definitions=among,
            )
        if not among:
            raise MissingDefinitionError("There is no definition here for you.")
        found = name or among[0]
        if found not in among:
            raise MissingDefinitionError(
                f"There is no definition {found!r} here; there are {', '.join(among)}."
            )
        return found

    def inputs(self, name: str) -> list[str]:
        """The names of what one can be kicked off with."""
        definition = self._by_name[name]
        if hasattr(definition, "crew_name"):
            return sorted(each for each in definition.fetch_inputs() if _INPUT.fullmatch(each))
        fields = getattr(type(definition.state), "model_fields", {})
        return sorted(field for field in fields if field != "id")

    def start(
        self, name: str, inputs: Mapping[str, Any] | None, run_id: str, queue: str | None
    ) -> str:
        """Kick one off, or find the run of this id. Called on a thread.

        Returns:
            The id of the run.

        Raises:
            Problem: Inputs are missing, or it takes too long.
            RunConflictError: The id belongs to a run of something else.
        """
        definition = self._by_name[name]
        missing = self._missing(definition, name, inputs)
        if missing:
            raise Problem(
                422,
                f"{name} wants the inputs {', '.join(missing)}, too.",
                "missing-inputs",
                missing_inputs=missing,
            )

        def kick_off() -> str:
            with SetWorkflowID(run_id):
                return str(definition.start(inputs, queue=queue).workflow_id)

        return self._in_time(kick_off)

    def _in_time(self, kick_off: Callable[[], str]) -> str:
        """What it returns.

        DBOS waits for its database for as long as it is away, and a request must not: the threads
        of the application would all be taken by and by.

        Raises:
            Problem: It takes too long, or too many do.
        """
        late = Problem(
            503,
            "The kickoff takes too long; the database may be away. It may begin yet: send it again "
            "with the same run_id, and it is one run.",
            "database",
        )
        if not self._free.acquire(timeout=PATIENCE):
            raise late
        done: Future[str] = Future()
        context = copy_context()

        def work() -> None:
            try:
                done.set_result(context.run(kick_off))
            except BaseException as error:
                done.set_exception(error)
            finally:
                self._free.release()

        threading.Thread(target=work, name="crewai-dbos-kickoff", daemon=True).start()
        if not wait([done], PATIENCE).done:
            raise late
        return done.result()

    def _missing(self, definition: Any, name: str, inputs: Mapping[str, Any] | None) -> list[str]:
        is_crew = hasattr(definition, "crew_name")
        if inputs is None or not is_crew or definition.before_kickoff_callbacks:
            return []  # crewAI fills nothing in; a flow has defaults; a callback may add them
        return [each for each in self.inputs(name) if each not in inputs]


class OfWorkers(Definitions):
    """The crews and flows that workers have which live: one of these takes a run that is asked for.

    Args:
        control: Of the database.
    """

    def __init__(self, control: Control) -> None:
        super().__init__(())
        self._control = control

    @property
    def are_known(self) -> bool:
        return True

    def names(self) -> list[str]:
        return self._control.definitions()

    def inputs(self, name: str) -> list[str]:
        raise Problem(
            501, f"What {name} wants is not known here, where its code is not.", "no-inputs"
        )

    def start(
        self, name: str, inputs: Mapping[str, Any] | None, run_id: str, queue: str | None
    ) -> str:
        return self._control.kickoff(name, inputs, run_id=run_id, queue=queue)


def _name_of(definition: Any) -> str:
    for field in ("crew_name", "flow_name"):
        name = getattr(definition, field, None)
        if isinstance(name, str) and callable(getattr(definition, "start", None)):
            return name
    raise DefinitionError(
        f"definitions are DBOSCrew and DBOSFlow objects, not {type(definition).__name__}."
    )
