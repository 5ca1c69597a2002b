"""OpenTelemetry spans of a run and what happens in it, through the exporter of the user.

There are some as soon as the program has set a tracer provider. Nothing of what is asked or
answered is in them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from crewai_dbos._dbos_seam.tracing import carried, trace_of
from crewai_dbos._events.event import CALLS, PLACES
from crewai_dbos._journal.journal import Journal
from crewai_dbos._journal.listening import Happening, Listener
from crewai_dbos._stored import names
from crewai_dbos._stored.usage import tokens_of

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

_KINDS = (*PLACES, *CALLS, "person")
_OPERATIONS = {"llm": "chat", "tool": "execute_tool", "agent": "invoke_agent"}
"""What the semantic conventions for generative AI call them."""


def tracer() -> Tracer | None:
    """The tracer of the program's provider; None if it has set none."""
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    if isinstance(
        trace.get_tracer_provider(), (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
    ):
        return None
    return trace.get_tracer("crewai_dbos")


def carrying() -> AbstractContextManager[Any]:
    """Runs that are started in the block belong to the trace that is here."""
    if tracer() is None:
        return nullcontext()
    from opentelemetry import trace

    here = trace.get_current_span().get_span_context().is_valid
    return carried() if here else nullcontext()


def handing_on(run_id: str) -> AbstractContextManager[Any]:
    """Runs that the workflow `run_id` starts in the block belong to its trace."""
    context = begun_in(run_id)
    return nullcontext() if context is None else carried(context)


def begun_in(run_id: str) -> Context | None:
    """The trace that a run was started in, if it is to be told of."""
    return None if tracer() is None else trace_of(run_id)


@contextmanager
def of_run(noun: str, name: str, run_id: str, began_in: Context | None) -> Iterator[None]:
    """The block is an execution of a run.

    Args:
        noun: Whether it is one of an agent, a crew or a flow.
        name: Of its definition.
        run_id: Its id.
        began_in: The trace that it was started in.
    """
    ours = tracer()
    if ours is None:
        yield
        return
    from opentelemetry import context, trace

    # DBOS's span of the workflow is in that trace as well, if it makes one.
    here = trace.get_current_span().get_span_context()
    is_inside = began_in is not None and (
        here.trace_id == trace.get_current_span(began_in).get_span_context().trace_id
    )
    token = None if began_in is None or is_inside else context.attach(began_in)
    attributes = {
        "crewai_dbos.run_id": run_id,
        "crewai_dbos.definition": name,
        "crewai_dbos.kind": noun,
    }
    try:
        with _span(ours, f"run {name}", attributes, None):
            yield
    finally:
        if token is not None:
            context.detach(token)


def listen(journal: Journal) -> None:
    """There are spans of what happens in the run from now on, if the program wants any."""
    ours = tracer()
    if ours is None:
        return
    with journal.record.lock(_SPANS):
        if _SPANS not in journal.kept:
            journal.kept[_SPANS] = spans = _Spans(ours, journal.run_id)
            journal.listeners.add(spans)


_SPANS = "spans"


class _Spans(Listener):
    """Makes the spans of one execution of a run. Threads share it."""

    def __init__(self, tracer: Tracer, run_id: str) -> None:
        self._tracer = tracer
        self._run_id = run_id
        self._lock = threading.Lock()
        self._open: dict[str, Span] = {}
        self._made: set[str] = set()
        self._replayed: set[str] = set()

    @contextmanager
    def hearing(self, happening: Happening) -> Iterator[None]:
        if happening.kind not in _KINDS:
            self._count(happening)
            yield
            return
        path = happening.name
        attributes = {**_attributes(happening), "crewai_dbos.run_id": self._run_id}
        with _span(self._tracer, _name(happening), attributes, self._around(path)) as span:
            with self._lock:
                self._open[path] = span
            try:
                yield
            finally:
                with self._lock:
                    self._open.pop(path, None)
                self._count(happening)
                _conclude(span, happening, self._is_replayed(happening))

    def _around(self, path: str) -> Span | None:
        """The span of what `path` is in, for a thread that does not know where it is."""
        with self._lock:
            while path := path.rpartition("/")[0]:
                if (span := self._open.get(path)) is not None:
                    return span
        return None

    def _count(self, happening: Happening) -> None:
        """Note for all that a call is in whether it was made or answered from the record."""
        if happening.kind in PLACES and not happening.replayed:
            return
        counted = self._replayed if happening.replayed else self._made
        path = happening.name
        with self._lock:
            while path:
                counted.add(path)
                path = path.rpartition("/")[0]

    def _is_replayed(self, happening: Happening) -> bool:
        path = happening.name
        with self._lock:
            return happening.replayed or (path in self._replayed and path not in self._made)


@contextmanager
def _span(
    tracer: Tracer, name: str, attributes: dict[str, Any], around: Span | None
) -> Iterator[Span]:
    """A span for the block, inside the one that is here or, on a thread of its own, `around`."""
    from opentelemetry import trace

    here = trace.get_current_span().get_span_context()
    lost = around is not None and here.trace_id != around.get_span_context().trace_id
    context = trace.set_span_in_context(around) if around is not None and lost else None
    with tracer.start_as_current_span(
        name,
        context=context,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Exception as error:
            _fail(span, type(error).__name__)
            raise
        except BaseException as error:
            # Not what the run comes to: it is left here, and may go on.
            span.set_attribute("crewai_dbos.cut_short", type(error).__name__)
            raise


def _fail(span: Span, error: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", error)
    span.set_status(Status(StatusCode.ERROR))  # what it says may hold contents


def _name(happening: Happening) -> str:
    what = happening.name.rpartition("/")[2].rpartition("#")[0]
    kind, colon, name = names.without_digest(what).partition(":")
    if happening.kind == "llm":
        return f"chat {happening.request.get('model') or ''}".rstrip()
    if happening.kind in _OPERATIONS:
        return f"{_OPERATIONS[happening.kind]} {name}"
    return f"{kind} {name}" if colon else kind


def _attributes(happening: Happening) -> dict[str, Any]:
    found: dict[str, Any] = {
        "crewai_dbos.entry": happening.name,
        "crewai_dbos.kind": happening.kind,
    }
    if happening.kind in _OPERATIONS:
        found["gen_ai.operation.name"] = _OPERATIONS[happening.kind]
    what = names.without_digest(happening.name.rpartition("/")[2].rpartition("#")[0])
    name = what.partition(":")[2]
    if happening.kind == "llm" and isinstance(model := happening.request.get("model"), str):
        found["gen_ai.request.model"] = model
    if happening.kind == "tool":
        found["gen_ai.tool.name"] = name
    if happening.kind == "agent":
        found["gen_ai.agent.name"] = name
    return found


def _conclude(span: Span, happening: Happening, replayed: bool) -> None:
    if replayed:
        span.set_attribute("crewai_dbos.replayed", True)
        return
    tokens = tokens_of((happening.payload or {}).get("extra") or {})
    if tokens.requests:
        span.set_attribute("gen_ai.usage.input_tokens", tokens.prompt)
        span.set_attribute("gen_ai.usage.output_tokens", tokens.completion)
        if tokens.cached:
            span.set_attribute("gen_ai.usage.cache_read.input_tokens", tokens.cached)
        if tokens.cache_creation:
            span.set_attribute("gen_ai.usage.cache_creation.input_tokens", tokens.cache_creation)
