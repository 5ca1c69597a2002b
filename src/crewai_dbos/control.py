"""What people do about runs, with nothing but the database: no code of the user's, and no crewAI.

`Control` lists runs and shows what is in one, what it cost and what happens in it. It stops runs,
lets them go on, forks them by place, and deletes old ones. It lists the requests that runs wait
for, and answers them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from dbos import Serializer

from crewai_dbos import _user
from crewai_dbos._control import contents, cost, forking, kickoffs, places, stopping, workers
from crewai_dbos._control.contents import Content as Content
from crewai_dbos._control.cost import Cost as Cost
from crewai_dbos._control.made_again import MadeAgain as MadeAgain
from crewai_dbos._control.moving import Mover
from crewai_dbos._control.moving import Moves as Moves
from crewai_dbos._control.moving import Wanted as WantedMove
from crewai_dbos._control.opening import opened
from crewai_dbos._control.pruning import Pruning
from crewai_dbos._control.reading import Reader, Wanted
from crewai_dbos._control.recorded import Recorded
from crewai_dbos._control.run import Fork as Fork
from crewai_dbos._control.run import Node as Node
from crewai_dbos._control.run import Page as Page
from crewai_dbos._control.run import Run as Run
from crewai_dbos._control.run import State as State
from crewai_dbos._control.taken_over import is_taken_over
from crewai_dbos._control.workers import WorkerInfo as WorkerInfo
from crewai_dbos._dbos_seam import attributes
from crewai_dbos._dbos_seam.rows import RecordedRow, recorded_rows
from crewai_dbos._events import reading
from crewai_dbos._events.event import RUN_CANCELLED
from crewai_dbos._events.event import Event as Event
from crewai_dbos._events.store import Store as EventStore
from crewai_dbos._requests import reading as requests
from crewai_dbos._requests.answers import Answer as Answer
from crewai_dbos._requests.answers import Approve as Approve
from crewai_dbos._requests.answers import Feedback as Feedback
from crewai_dbos._requests.answers import Reject as Reject
from crewai_dbos._requests.answers import Reply as Reply
from crewai_dbos._requests.request import Question as Question
from crewai_dbos._requests.request import Request as Request
from crewai_dbos._requests.store import Store
from crewai_dbos._stored import sealing
from crewai_dbos._stored.prices import Price as Price
from crewai_dbos._stored.prices import Prices
from crewai_dbos._stored.usage import Spent
from crewai_dbos._stored.usage import Tokens as Tokens
from crewai_dbos.errors import ForkError, RunNotFoundError, UnknownRequest

__all__ = [
    "Answer",
    "Approve",
    "Content",
    "Control",
    "Cost",
    "Event",
    "Feedback",
    "Fork",
    "MadeAgain",
    "Moves",
    "Node",
    "Page",
    "Price",
    "Question",
    "Reject",
    "Reply",
    "Request",
    "Run",
    "State",
    "Tokens",
    "WorkerInfo",
]


class Control:
    """Runs and their requests in one database.

    Args:
        url: Of the database that DBOS keeps its workflows in, ``sqlite:///support.sqlite`` or
            ``postgresql://...``; by default the environment variable ``DBOS_SYSTEM_DATABASE_URL``.
        serializer: The ``serializer`` of the application's DBOS config, if it has one.
        schema: Where DBOS's tables are, on Postgres.
        prices: What models cost, each a `Price`. Those of a JSON file come after them, which the
            environment variable ``CREWAI_DBOS_PRICES`` names, and then those of LiteLLM's table.

    Raises:
        DefinitionError: There is no URL, or no database of DBOS's; or the prices are none.

    Example::

        from crewai_dbos.control import Approve, Control

        with Control("sqlite:///support.sqlite") as control:
            for request in control.requests():
                print(request.request_id, request.question.message)
                control.answer(request.request_id, Approve(), by="ann")
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        serializer: Serializer | None = None,
        schema: str = "dbos",
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        self._prices = Prices(prices)
        self._serializer = serializer
        self._client, database = opened(url, schema, serializer)
        self._database = database
        self._store = Store(database)
        self._events = EventStore(database)
        self._reader = Reader(database, self._events, self._prices, self._opened)
        self._pruning = Pruning(database, self._store, self._events, self._opened)

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back.

        Example::

            from crewai_dbos.control import Control

            control = Control("sqlite:///support.sqlite")
            control.close()
        """
        self._client.destroy()

    # Runs --------------------------------------------------------------------------

    def runs(
        self,
        *,
        definition: str | None = None,
        state: State | None = None,
        kind: str | None = None,
        since: datetime | None = None,
        version: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Runs, the newest first, without what is in them.

        Args:
            definition: Those of the `DBOSAgent`, `DBOSCrew` or `DBOSFlow` of this name only.
            state: Those that stand so only; see `State`.
            kind: ``agent``, ``crew``, ``flow``, ``batch``, or ``workflow``: one of your own.
            since: Those created then or later only. A time without a zone is a local one.
            version: Those of this application version only: not those that wait for any.
            limit: At most so many.
            cursor: That of the page before.

        Raises:
            DefinitionError: There is no such state or kind, or that is no cursor.

        Example::

            page = control.runs(definition="research", state="failed", limit=20)
            for run in page:
                print(run.run_id, run.seconds, run.tokens.total, run.error)
            if page.cursor is not None:
                page = control.runs(definition="research", state="failed", cursor=page.cursor)
        """
        wanted = Wanted(definition=definition, state=state, kind=kind, since=since, version=version)
        return self._reader.page(wanted, limit, cursor)

    def run(self, run_id: str) -> Run:
        """One run, with what it has done as a tree.

        Its tokens and its cost are those of the tree, with the runs that it has started and the
        items of a batch. A call is stored when it has ended: one that is in flight is in the tree
        of a definition with ``events=True`` only.

        Args:
            run_id: Its id, or the first letters that no other begins with.

        Raises:
            RunNotFoundError: There is none with this id, or several begin so.

        Example::

            run = control.run(run_id)
            print(run.state, run.reason)
            for node in run.children:
                print(node.name, node.state, node.seconds, node.tokens.total, node.replayed)
        """
        return self._reader.run(run_id)

    def id_of(self, begins: str) -> str:
        """The id of the one run whose id begins so. Every other verb but `run` takes whole ids.

        Args:
            begins: The id, or its first letters.

        Raises:
            RunNotFoundError: There is none with this id, or several begin so.

        Example::

            print(control.id_of(run_id))
        """
        return self._reader.id_of(begins)

    def inputs_of(self, run_id: str) -> Any:
        """What a run was kicked off with, as plain JSON; None of a workflow of your own.

        Raises:
            RunNotFoundError: There is no such run.
            SealedError: It is encrypted, and `serializer` can't read it.

        Example::

            print(control.inputs_of(run_id))
        """
        self._check_run(run_id)
        return contents.inputs_of(self._database, run_id, self._opened)

    def result_of(self, run_id: str) -> Any:
        """What a run has returned, as plain JSON; None of one that has not ended well.

        Raises:
            RunNotFoundError: There is no such run.
            SealedError: It is encrypted, and `serializer` can't read it.

        Example::

            print(control.result_of(run_id))
        """
        self._check_run(run_id)
        return contents.result_of(self._database, run_id, self._opened)

    def content_of(self, run_id: str, path: str) -> Content | None:
        """What a call in a run has returned. What it was given is not stored, but a digest of it.

        Args:
            run_id: The run.
            path: The name of the call in its journal, the `path` of a `Node`.

        Returns:
            None if there is no such call, or nothing is recorded of it.

        Raises:
            RunNotFoundError: There is no such run.
            SealedError: It is encrypted, and `serializer` can't read it.

        Example::

            print(control.content_of(run_id, "crew:research#1/task:1#1/agent:Writer#1/llm#1"))
        """
        self._check_run(run_id)
        return contents.content_of(self._database, run_id, path, self._opened)

    def stranded(self, *, limit: int = 50, cursor: str | None = None) -> Page:
        """Runs that nobody goes on with, each with the reason; the newest first.

        Whether a process is alive the database says of a `Worker` only: the runs of another that
        died stay ``running``.

        Args:
            limit: At most so many.
            cursor: That of the page before.

        Example::

            for run in control.stranded():
                print(run.run_id, run.reason)
        """
        return self.runs(state="stranded", limit=limit, cursor=cursor)

    def workers(self) -> list[WorkerInfo]:
        """The workers on this database, with those that are gone: for a day, and while runs are
        left under them.

        Example::

            for worker in control.workers():
                print(worker.executor_id, worker.alive, worker.age, worker.runs)
        """
        with self._database.engine.connect() as connection:
            return workers.workers(self._database, connection)

    def prune(self, older_than: timedelta, *, dry_run: bool = False) -> list[str]:
        """Delete runs that are done, failed or cancelled, with all that is stored of them.

        A run goes with the child runs and items that it has started, when all of them have ended
        before. One that is stopped stays, as it can be resumed, and so do workflows of your own in
        which no agent, crew or flow has worked, and the turn that a conversation goes on from, as
        long as a younger one stays. An id that is deleted can be used again: a kickoff under it is
        a new run.

        Args:
            older_than: How long ago they have ended.
            dry_run: Delete nothing.

        Returns:
            The ids of the runs that are deleted, or would be.

        Example::

            from datetime import timedelta

            print(len(control.prune(timedelta(days=30), dry_run=True)), "runs would go")
        """
        return self._pruning.prune(older_than, dry_run=dry_run)

    # Kicking off -------------------------------------------------------------------

    def kickoff(
        self,
        definition: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        queue: str | None = None,
    ) -> str:
        """Begin a run of a crew or a flow that a `Worker` has which lives; one of these takes it.

        Nothing of it is imported here, so whether the inputs are those that it wants only the run
        shows.

        Args:
            definition: The name of the `DBOSCrew` or `DBOSFlow`.
            inputs: As of its kickoff; plain JSON.
            run_id: The workflow id of the run. Asked for again with the same inputs, it is one run.
            queue: The name of a DBOS queue that is registered. By default DBOS's own.

        Returns:
            The workflow id of the run.

        Raises:
            MissingDefinitionError: No worker that lives has it.
            DefinitionError: It can't be kicked off from outside: it has a ``redact=``.
            QueueNotFoundError: There is no such queue.
            SealedError: The application encrypts, and this `Control` has not its serializer.
            UnstorableInputError: The inputs have no JSON form.
            RunConflictError: The id is that of another run, or of one with other inputs.

        Example::

            from crewai_dbos.errors import MissingDefinitionError

            try:
                print(control.kickoff("research", {"topic": "otters"}, run_id="otters"))
            except MissingDefinitionError as missing:
                print(missing)  # its worker is not there
        """
        wanted = kickoffs.Kickoff(definition, inputs, run_id, queue)
        return kickoffs.kick_off(self._database, self._client, wanted, self._serializer)

    def definitions(self) -> list[str]:
        """The names of the crews and flows that workers have which live, as `kickoff` takes them.

        Example::

            print(control.definitions())
        """
        return kickoffs.offered(self._database)

    # Stopping, and going on -------------------------------------------------------

    def cancel(self, run_id: str, *, reason: str | None = None, by: str | None = None) -> None:
        """Cancel a run. A request to an LLM that it waits for is left, and no call begins any more.

        Args:
            run_id: Which; of a batch its items are cancelled, queued and running.
            reason: Why, for whoever waits for the run.
            by: Who cancels it; by default the user of the operating system.

        Raises:
            RunNotFoundError: There is no such run.
            RunStateError: It has ended.

        Example::

            control.cancel(run_id, reason="The order was taken back.", by="ann")
        """
        name = by or _user.name()
        said = stopping.cancel(self._database, run_id, name, reason, self._sealed)
        for each, at_ms in said.items():
            self._events.say(each, RUN_CANCELLED, {"by": name}, at_ms)

    def resume(
        self, run_id: str, *, timeout: float | None = None, even_if_forked: bool = False
    ) -> None:
        """Let a run go on that was cancelled or stopped, from what it has recorded.

        It is taken from the queue that it came from. What it asks people can be answered for as
        long again.

        Args:
            run_id: Which; of a batch the items that were cancelled go on.
            timeout: Seconds that it may take from when a process takes it. None for no limit,
                whatever `SetWorkflowTimeout` it began with.
            even_if_forked: Also if a fork goes on for it, or has: both make what is left.

        Raises:
            RunNotFoundError: There is no such run.
            RunStateError: It has ended, or has not been stopped.
            RunForkedError: A fork goes on for it, or has; a `RunStateError`.

        Example::

            control.cancel(run_id, reason="The prices are being changed.")
            control.resume(run_id, timeout=600)  # the next day
        """
        stopping.resume(self._database, self._store, run_id, timeout, self._opened, even_if_forked)

    # Other versions of the program --------------------------------------------------

    def move(
        self,
        run_id: str,
        *,
        version: str | None = None,
        even_if_running: bool = False,
        even_if_forked: bool = False,
        by: str | None = None,
    ) -> Moves:
        """Let a run go on under another version of the program, under its id.

        A process of that version takes it, and answers what is recorded from the record. If it does
        not fit the code it is stopped, and can be moved back. One that has stopped, by drift or
        otherwise, goes on where it is moved. One that was cancelled stays so.

        Args:
            run_id: Which; the runs that it has started go with it, and the items of a batch.
            version: The application version; by default the newest of its application.
            even_if_running: Also if a process is at work at it, or may be: it records nothing more,
                and the calls that it is at are made again.
            even_if_forked: Also if it has stopped, and a fork goes on for it, or has: both make
                what is left.
            by: Who does it; by default the user of the operating system.

        Raises:
            RunNotFoundError: There is no such run.
            RunStateError: It has ended; or a process is at work at it, or may be; or it has stopped
                and was forked.
            DefinitionError: No process was ever launched as that version.

        Example::

            moves = control.move(run_id)  # or version="2"
            print(moves.moved, moves.kept)
        """
        return self._mover(version, even_if_running, even_if_forked, by).move(run_id)

    def move_all(
        self,
        from_version: str,
        *,
        version: str | None = None,
        even_if_running: bool = False,
        even_if_forked: bool = False,
        by: str | None = None,
    ) -> Moves:
        """Move all runs of agents, crews and flows that have not ended and are of one version.

        Those that can't be moved as they stand are in `Moves.refused`, each with the reason.

        Args:
            from_version: The application version that they are of.
            version: As of `move`.
            even_if_running, even_if_forked: As of `move`.
            by: As of `move`.

        Raises:
            DefinitionError: No process was ever launched as `version`.

        Example::

            moves = control.move_all("1")  # or version="2"
            print(len(moves.moved), moves.refused)
        """
        return self._mover(version, even_if_running, even_if_forked, by).move_all(from_version)

    def _mover(
        self, version: str | None, even_if_running: bool, even_if_forked: bool, by: str | None
    ) -> Mover:
        wanted = WantedMove(version, even_if_running, by or _user.name(), even_if_forked)
        return Mover(self._database, self._store, self._opened, wanted)

    # People ----------------------------------------------------------------------

    def requests(
        self,
        *,
        audience: str | None = None,
        audiences: Iterable[str] | None = None,
        run_id: str | None = None,
        after: str | None = None,
        only_open: bool = True,
        limit: int | None = None,
        even_sealed: bool = False,
    ) -> list[Request]:
        """What people are asked, the oldest first.

        Args:
            audience: Those for it only.
            audiences: Those for one of these, and those for anybody.
            run_id: Those of this run only.
            after: Those after the one with this id, the last of the page before.
            only_open: Leave out what can't be answered any more.
            limit: At most so many.
            even_sealed: List those that can't be read, too; the message of one says so.

        Raises:
            SealedError: What is asked is encrypted, and `serializer` can't read it.

        Example::

            for request in control.requests(audience="support"):
                print(request.question.tool, request.question.arguments, request.deadline)
        """
        return requests.find(
            self._database,
            self._opened,
            audience=audience,
            audiences=audiences,
            run_id=run_id,
            after=after,
            only_open=only_open,
            limit=limit,
            even_sealed=even_sealed,
        )

    def request(self, request_id: str) -> Request:
        """One request, open or not.

        Args:
            request_id: Its id, or the first letters that no other begins with.

        Raises:
            UnknownRequest: There is none with this id, or several begin so.

        Example::

            print(control.request(request_id).state)
        """
        found = requests.find(self._database, self._opened, begins=request_id, limit=2)
        if len(found) != 1 or not request_id:
            raise UnknownRequest(request_id, ambiguous=bool(request_id and found))
        return found[0]

    def answer(self, request_id: str, answer: Answer, *, by: str | None = None) -> None:
        """Answer a request, once. The run that waits for it goes on.

        Args:
            request_id: Which.
            answer: `Approve` or `Reject` a tool call; `Approve` a result or give `Feedback` on it;
                `Reply` to a question.
            by: Who answers; by default the user of the operating system.

        Raises:
            UnknownRequest: There is none with this id.
            AlreadyAnswered: Somebody was first; it says who, and when.
            RequestExpired: Its deadline has passed, or nothing waits for it any more.
            InvalidAnswer: It is of another kind than the request, or does not fit the schema.
            NotAllowed: It changes arguments that may not be changed.

        Example::

            from crewai_dbos.control import Approve, Reject

            control.answer(request_id, Approve(arguments={"to": "bob@example.org"}), by="ann")
        """
        self._store.answer(request_id, answer, by or _user.name(), self._opened, self._sealed)

    def status_of(self, run_id: str) -> str | None:
        """DBOS's status of a run: ``DELAYED`` while it waits for a person and is in no process.

        Returns:
            None if there is no such run.

        Example::

            print(control.status_of(request.run_id))
        """
        return self._database.status_of(run_id)

    # Forks -------------------------------------------------------------------------

    def fork(
        self,
        run_id: str,
        at: str | Sequence[str] | None = None,
        *,
        inputs: Mapping[str, Any] | None = None,
        edit: Mapping[str, Any] | None = None,
        version: str | None = None,
        by: str | None = None,
        fork_id: str | None = None,
        even_if_forked: bool = False,
    ) -> str:
        """Begin a new run with what another has recorded, less what depends on a place in it.

        The other run stays as it is, whatever its state. A process that has the definition takes
        the fork from DBOS's queue. It makes again what is left out, and answers the rest from the
        record. Without `at` and `edit` nothing is kept. Tools that are made again have their
        effects again: `made_again` says which.

        Args:
            run_id: Which run.
            at: What is made again, with all that depends on it: ``task:2`` or ``task:write``, the
                number or the name of a task; ``method:draft#2``, the second time that a method was
                executed, or ``method:draft``, the last time; any name of the journal, or the end
                of one that no other has: ``agent:Writer/llm#3``; several of them; or ``end``, which
                is after all that is recorded, so that nothing is.
            inputs: Of the kickoff, for a fork that keeps nothing.
            edit: Results to go on with, by place: the output of a task, what a method returned, an
                answer of an LLM, the result of a tool or a step, or what a person answered. What
                depends on them is made again.
            version: The application version whose processes take the fork; by default the newest.
            by: Who does it; by default the user of the operating system.
            fork_id: The workflow id of the fork. A fork of this run that has it is not made again.
            even_if_forked: Also if the run has not ended, and another fork goes on for it, or has:
                both make what is left.

        Returns:
            The workflow id of the fork.

        Raises:
            RunNotFoundError: There is no such run.
            RunConflictError: `fork_id` is the id of a run that is no fork of this one.
            ForkError: There is no such place, or several; or an edit does not fit.
            RunForkedError: The run has not ended, and another fork goes on for it, or has; a
                `ForkError`.
            SealedError: The run is encrypted, and this `Control` has no serializer that reads it.

        Example::

            run = crew.start({"topic": "otters"})
            print(run.get_result().raw)
            fork_id = control.fork(run.workflow_id, edit={"task:1": "About rivers."}, by="ann")
            print(crew.retrieve(fork_id).get_result().raw)
        """
        by = by or _user.name()
        again = _places(run_id, at, edit)
        wanted = forking.Wanted(again, inputs, edit or {}, version, by, fork_id, even_if_forked)
        return forking.fork(self._database, run_id, wanted, self._serializer)

    def made_again(
        self,
        run_id: str,
        at: str | Sequence[str] | None = None,
        *,
        edit: Collection[str] = (),
    ) -> MadeAgain:
        """What a fork would make again, and have its effects again, by what is recorded now.

        Args:
            run_id: Which run.
            at: As of `fork`.
            edit: As of `fork`, or its places alone.

        Raises:
            RunNotFoundError: There is no such run.
            ForkError: There is no such place, or several; or an edit does not fit.
            SealedError: The run is encrypted, and this `Control` has no serializer that reads it.

        Example::

            run = crew.start({"topic": "otters"})
            print(run.get_result().raw)
            print("again:", control.made_again(run.workflow_id, edit=["task:1"]))
        """
        wanted = _places(run_id, at, edit)
        return forking.left_out(self._database, run_id, wanted, edit, self._serializer)

    def place_of(self, run_id: str, place: str) -> str:
        """The whole name of what `place` stands for in a run, as `fork` takes it.

        Raises:
            RunNotFoundError: There is no such run.
            ForkError: There is no such place, or several.
            SealedError: The run is encrypted, and this `Control` has no serializer that reads it.

        Example::

            run = crew.start({"topic": "otters"})
            print(run.get_result().raw, control.place_of(run.workflow_id, "task:1"))
        """
        self._check_run(run_id)
        rows = recorded_rows(run_id, self._client)
        return places.found(Recorded(run_id, rows, self._serializer), place)

    # Events ----------------------------------------------------------------------

    def events(self, run_id: str, after: int = 0, *, follow: bool = False) -> Iterator[Event]:
        """What happened in a run of a definition with ``events=True``, in its order.

        Args:
            run_id: The run.
            after: The number of the last event that is known already.
            follow: Whether to wait for more, until the run has ended.

        Raises:
            RunNotFoundError: There is no such run.

        Example::

            run = crew.start({"topic": "otters"})
            for event in control.events(run.workflow_id, follow=True):
                print(event.seq, event.type, event.path, dict(event.data))
        """
        self._check_run(run_id)
        return reading.events(self._events, self._opened, run_id, after, follow=follow)

    async def aevents(
        self, run_id: str, after: int = 0, *, follow: bool = False
    ) -> AsyncIterator[Event]:
        """As `events`, for async code.

        Example::

            run = crew.start({"topic": "otters"})
            async for event in control.aevents(run.workflow_id, follow=True):
                print(event.seq, event.type, event.path)
        """
        await asyncio.to_thread(self._check_run, run_id)
        found = reading.aevents(self._events, self._opened, run_id, after, follow=follow)
        async for event in found:
            yield event

    def last_event(self, run_id: str) -> int:
        """The number of the last event of a run until now, to follow it from there; 0 if none.

        Raises:
            RunNotFoundError: There is no such run.

        Example::

            run = crew.start({"topic": "otters"})
            now = control.last_event(run.workflow_id)
            for event in control.events(run.workflow_id, now, follow=True):
                print(event.type)
        """
        self._check_run(run_id)
        return self._events.last(run_id)

    def _check_run(self, run_id: str) -> None:
        if self.status_of(run_id) is None:
            raise RunNotFoundError(run_id)

    # Cost ------------------------------------------------------------------------

    def cost_of(self, run_id: str) -> Cost:
        """What the LLM requests of a run have cost until now, also of one that goes on or failed.

        What its workflow has started as runs of their own, as the items of a batch, is not in it.

        Raises:
            RunNotFoundError: There is no such run.

        Example::

            cost = control.cost_of(run_id)
            print(cost.tokens.total, cost.usd, cost.unpriced)
            print(cost.tokens.total - cost.taken_over.total, "of them spent by this run itself")
        """
        run, rows = self._reader.row(run_id), recorded_rows(run_id, self._client)
        taken_over = (row for row in rows if is_taken_over(run, row.ended_ms))
        saved = cost.saved_by_replay(run.attributes)
        return cost.cost_of(_spent(rows), self._prices, saved, _spent(taken_over))

    def costs_of(self, run_id: str) -> Mapping[str, Cost]:
        """As `cost_of`, of each call by itself: by its name in the journal, the `path` of a `Node`.

        Raises:
            RunNotFoundError: There is no such run.

        Example::

            for path, cost in control.costs_of(run_id).items():
                print(path, cost.tokens.total, cost.usd)
        """
        run, rows = self._reader.row(run_id), recorded_rows(run_id, self._client)
        found = {}
        for path, spent in _spent_by_entry(rows).items():
            found[path] = cost.cost_of(spent, self._prices, 0)
        taken_over = _spent_by_entry(row for row in rows if is_taken_over(run, row.ended_ms))
        for path, spent in taken_over.items():
            found[path] = cost.cost_of(spent, self._prices, 0, spent)
        return found

    def raise_budget(
        self, run_id: str, *, tokens: int | None = None, usd: float | None = None
    ) -> None:
        """Let a run that has stopped at its budget cost more, when it is resumed.

        The limit of that run alone is raised, and only for the `Budget` that was reached.

        Args:
            run_id: A run that has ended with `BudgetExceeded`.
            tokens: Its new limit in tokens.
            usd: Its new limit in US dollars.

        Raises:
            RunNotFoundError: There is no such run.
            InvalidAnswer: It has not stopped at a budget, or would at once again.

        Example::

            from crewai_dbos import BudgetExceeded
            from dbos import DBOS

            try:
                print(crew.kickoff({"topic": "otters"}).raw)
            except BudgetExceeded as stopped:
                control.raise_budget(run_id, tokens=400_000)
                DBOS.resume_workflow(run_id)
        """
        self._check_run(run_id)
        wanted = {"tokens": tokens, "usd": usd}
        cost.raised(
            run_id, self._reader.row(run_id).attributes, wanted
        )  # before anything is locked
        attributes.change(
            self._database,
            run_id,
            lambda found, _: {**found, **cost.raised(run_id, found, wanted)},
        )

    def _opened(self, stored: Any) -> Any:
        return sealing.opened(stored, self._serializer)

    def _sealed(self, content: Any) -> Any:
        return sealing.seal(content, self._serializer)


def _places(
    run_id: str, at: str | Sequence[str] | None, edit: Collection[str] | None
) -> tuple[str, ...]:
    if at is None:
        return ()
    if not (at or edit):
        raise ForkError(
            f"No place of run {run_id!r} is given. at='end' keeps all that is recorded; leave at "
            "out to make everything again."
        )
    return (at,) if isinstance(at, str) else tuple(at)


def _spent_by_entry(rows: Iterable[RecordedRow]) -> dict[str, list[Spent]]:
    return cost.spent_by_entry((row.name, row.output) for row in rows)


def _spent(rows: Iterable[RecordedRow]) -> list[Spent]:
    return [*chain.from_iterable(_spent_by_entry(rows).values())]
