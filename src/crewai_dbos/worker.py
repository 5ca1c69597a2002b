"""`Worker`: a process that carries out runs beside others, any of which may die."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import socket
import threading
from typing import Any

from dbos import DBOS

from crewai_dbos import _patches
from crewai_dbos._dbos_seam import at_work, claiming, recovering
from crewai_dbos._dbos_seam.database import separate_database
from crewai_dbos._dbos_seam.instance import is_constructed, is_launched
from crewai_dbos._dbos_seam.serializer import application_serializer
from crewai_dbos._fleet import membership
from crewai_dbos._fleet.eligibility import Claims
from crewai_dbos._fleet.leases import Definitions, Holder, Leases
from crewai_dbos._fleet.membership import Membership
from crewai_dbos._fleet.stop_signals import StopSignals
from crewai_dbos._health.log import WorkerLog
from crewai_dbos._health.watch import Watch
from crewai_dbos._runs.registry import REGISTRIES, definitions
from crewai_dbos._stored import names
from crewai_dbos.errors import DefinitionError, NotLaunchedError

logger = logging.getLogger("crewai_dbos")


class Worker:
    """A process among others on one database, which go on with each other's runs.

    In the block DBOS is launched: use it in place of ``DBOS.launch()``, after the definitions are
    made. The worker keeps a lease in the database. When it dies, however it dies, its lease runs
    out, and workers of the same application and version go on with its runs.

    Args:
        lease: Seconds after which a worker that says nothing is taken for dead. Longer than the
            longest time for which a process may stand still.
        grace: Seconds that runs at work are given to end when the worker is to stop.
        health_port: Where probes, `/status` and `/metrics` are served by HTTP; 0 for any port that
            is free, None for none.
        health_host: The address for that. By default all of the machine's, as probes of a container
            come from outside of it; ``"::"`` where there is IPv6 only.

    Raises:
        NotLaunchedError: There is no ``DBOS(config=...)``.
        DefinitionError: DBOS is launched already, or has a `conductor_key`; or another live process
            has the executor id; or the worker was used before; or `lease` or `grace` is no number
            of seconds that can be; or the port is taken.

    Example::

        from dbos import DBOS

        from crewai_dbos import Worker

        DBOS(config={"name": "support", "system_database_url": url})
        with Worker(lease=30) as worker:
            worker.run()  # until SIGTERM or Ctrl-C
    """

    def __init__(
        self,
        *,
        lease: float = 30.0,
        grace: float = 30.0,
        health_port: int | None = None,
        health_host: str = "0.0.0.0",
    ) -> None:
        if not 1.0 <= lease < math.inf:
            raise DefinitionError(f"lease is {lease!r}: give at least one second.")
        if not 0.0 <= grace < math.inf:
            raise DefinitionError(f"grace is {grace!r}: give seconds, 0 to wait for nothing.")
        if health_port is not None and not _is_port(health_port):
            raise DefinitionError(f"health_port is {health_port!r}: give a port, or 0 for any.")
        self._lease = lease
        self._grace = grace
        self._over = threading.Event()
        self._watch = Watch(health_host, health_port, grace, self._is_stopping)
        self._log = WorkerLog(self._beat_soon)
        self._why = ""
        self._member: Membership | None = None
        self._is_used = False
        self._is_shut_down = False
        self._pid = os.getpid()
        self._signals = StopSignals(self._is_here, self._give_up)
        self._shutting_down = threading.Lock()

    def __enter__(self) -> Worker:
        self._check()
        self._is_used, self._pid = True, os.getpid()
        if recovering.executor_id() == recovering.SHARED:
            recovering.take_executor_id(f"{_process()}:{secrets.token_hex(3)}")
        try:
            self._signals.end_the_block()
            self._log.begin()
            self._watch.begin()
            self._begin()
        except BaseException:
            self._end(grace=0)
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        if self._is_here():
            self._over.set()
            self._say_what_is_left(self._end(self._grace))

    @property
    def executor_id(self) -> str:
        """What this worker is called in the rows of its runs.

        Example::

            print(worker.executor_id)
        """
        return recovering.executor_id()

    @property
    def health_port(self) -> int | None:
        """The port at which the worker answers probes; None if it does not.

        Example::

            print(f"http://127.0.0.1:{worker.health_port}/status")
        """
        return self._watch.port

    def run(self) -> None:
        """Carry out runs until SIGTERM, Ctrl-C or `stop`.

        Raises:
            DefinitionError: Another process has taken the executor id of this one.

        Example::

            with Worker() as worker:
                worker.run()
        """
        with self._signals.told() as are_told:
            if not are_told:
                logger.info(
                    "Signals do not stop a worker that runs in a thread; Worker.stop() does."
                )
            # A handler must not set the event: it may come in the middle of the wait's own lock.
            while not (self._signals.have_come or self._over.wait(0.5)):
                pass
        if self._why:
            raise DefinitionError(self._why)

    def stop(self) -> None:
        """Have `run` return. From any thread.

        Example::

            worker.stop()
        """
        self._over.set()

    def _check(self) -> None:
        if self._is_used:
            raise DefinitionError("A Worker is used once. Make another: `with Worker():`.")
        if not is_constructed():
            raise NotLaunchedError("A Worker launches DBOS: construct DBOS(config=...) before it.")
        if is_launched():
            raise DefinitionError(
                "DBOS is launched already, and recovers runs under an executor id of its own. Use "
                "`with Worker():` in place of DBOS.launch()."
            )
        if recovering.is_recovered_by_conductor():
            raise DefinitionError(
                "DBOS has a conductor_key: Conductor gives this process its executor id and "
                "recovers its runs. Use DBOS.launch(), or a Worker without the key."
            )

    def _begin(self) -> None:
        """Take the lease, then launch: what DBOS takes from then on is under the lease."""
        database = separate_database()
        holder = Holder(
            executor_id=recovering.executor_id(),
            token=secrets.token_hex(8),
            process=_process(),
            application=recovering.configured_name(),
            version=recovering.version(),
        )
        leases = Leases(database, holder, self._lease, _also)
        claims = Claims(definitions)
        member = Membership(
            database,
            leases,
            self._lease,
            definitions,
            claims,
            lost=self._lost,
            beaten=self._log.beaten,
        )
        self._member = member
        if (taken := member.begin()) is not None:
            raise DefinitionError(_taken(taken.holder.executor_id, taken.holder.process))
        membership.join(member)
        _patches.apply(_patches.LAUNCH)
        claiming.confine(claims.fit)
        DBOS.launch()
        member.attend()
        self._watch.works(member)

    def _end(self, grace: float) -> list[str]:
        """Returns the runs that are left to others."""
        left: list[str] = []
        try:
            self._say_what_is_at_work(grace)
            self._shut_down(grace)
        finally:
            membership.join(None)
            if self._member is not None:
                left = self._member.end()
            self._watch.end()
            self._log.end()
            claiming.confine(None)
            self._signals.give_back()
        return left

    def _say_what_is_at_work(self, grace: float) -> None:
        if runs := at_work.run_ids():
            logger.warning(
                "Worker %s stops: %d %s %g s to end.",
                self.executor_id,
                len(runs),
                "run has" if len(runs) == 1 else "runs have",
                grace,
            )

    def _say_what_is_left(self, runs: list[str]) -> None:
        if not runs:
            logger.info("Worker %s has stopped.", self.executor_id)
            return
        logger.warning(
            "Worker %s has stopped. %d of its runs %s on at another worker or at the next that is "
            "started: %s",
            self.executor_id,
            len(runs),
            "has not ended, and goes" if len(runs) == 1 else "have not ended, and go",
            membership.listed(runs),
        )

    def _shut_down(self, grace: float) -> None:
        with self._shutting_down:  # once: what is constructed later is another's
            is_first, self._is_shut_down = not self._is_shut_down, True
            if is_first and is_constructed():
                DBOS.destroy(workflow_completion_timeout_sec=math.ceil(grace))

    def _beat_soon(self) -> None:
        if self._member is not None:
            self._member.beat_soon()

    def _is_stopping(self) -> bool:
        return self._signals.have_come or self._over.is_set()

    def _lost(self, executor_id: str) -> None:
        """Another process has our id. It has our runs, too, and this one takes no more."""
        self._why = _taken(executor_id, "another process")
        logger.error("%s", self._why)
        self._over.set()
        threading.Thread(target=self._shut_down, args=(0,), daemon=True).start()

    def _is_here(self) -> bool:
        """Whether this is the worker's process, and not one that was forked from it."""
        return os.getpid() == self._pid

    def _give_up(self) -> None:
        if self._member is not None:
            with contextlib.suppress(Exception):
                self._member.give_up(seconds=2.0)


def _also() -> Definitions:
    """What others have to know who kick off what this worker has: `Control.kickoff`."""
    serializer = application_serializer()
    by_name = [
        f"{noun}:{name}"
        for noun, registry in REGISTRIES.items()
        if noun in ("crew", "flow")
        for name in registry.names()
        if (found := registry.find(name)) is not None and found.redact is None
    ]
    queues = claiming.queues()
    return {
        **({} if queues is None else {names.QUEUES: queues}),
        names.BY_NAME: by_name,
        names.SERIALIZER: [] if serializer is None else [serializer.name()],
    }


def _is_port(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and 0 <= given <= 65535


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _taken(executor_id: str, process: str) -> str:
    return (
        f"The executor id {executor_id!r} is that of {process}, which lives: each of the two would "
        "take the other's runs. Give each process one of its own (executor_id in the DBOS config, "
        "or DBOS__VMID), or none, and a Worker makes one."
    )
