"""Spans of runs, through the exporter of the user."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, start
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from crewai_dbos import DBOSCrew, DBOSFlow
from crewai_dbos.testing import Reply, Request, ToolCall, text, tool_calls
from support.controlling import one_dbos
from support.databases import SQLITE_HERE, some_here
from support.launching import launched
from support.names import unique
from support.serving import Serve, serving


@pytest.fixture(scope="module", params=SQLITE_HERE)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with one_dbos(request, tmp_path_factory) as url:
        yield url


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What the user's provider exports to; a process has one provider for good."""
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


def searching(request: Request) -> Reply:
    if not request.tool_results:
        return tool_calls(ToolCall("search", {"what": "otters"}))
    return text("They swim.")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, searching)


def crew(*, beside: bool = False, fails: bool = False) -> DBOSCrew:
    @tool("search")
    def search(what: str) -> str:
        """Search."""
        with trace.get_tracer("users").start_as_current_span("users own"):
            if fails:
                raise LookupError("no secrets in spans")
            return f"{what} are nice"

    def build() -> Crew:
        clerk = Agent(
            role="Clerk", goal="Find", backstory="Old.", llm="gpt-4o-mini", tools=[search]
        )
        tasks = [
            Task(
                description="Find {what}.",
                expected_output="Facts.",
                agent=clerk,
                name="find",
                async_execution=beside,
            ),
            Task(description="Write {what}.", expected_output="A text.", agent=clerk),
        ]
        return Crew(agents=[clerk], tasks=tasks)

    return DBOSCrew(crew_name=unique("found"), orig_crew=build)


def ours(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return [
        span
        for span in exporter.get_finished_spans()
        if span.instrumentation_scope is not None
        and span.instrumentation_scope.name in ("crewai_dbos", "users")
    ]


def tree(spans: list[ReadableSpan]) -> Any:
    """Names, each with those inside, in the order in which they began."""
    known = {span.context.span_id for span in spans}

    def inside(parent: int | None) -> list[Any]:
        found = [
            span
            for span in sorted(spans, key=lambda span: span.start_time or 0)
            if (span.parent.span_id if span.parent and span.parent.span_id in known else None)
            == parent
        ]
        return [[span.name, inside(span.context.span_id)] for span in found]

    return inside(None)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def of_task(name: str) -> list[Any]:
    return [
        name,
        [
            [
                "invoke_agent Clerk",
                [
                    ["chat gpt-4o-mini", []],
                    ["execute_tool search", [["users own", []]]],
                    ["chat gpt-4o-mini", []],
                ],
            ]
        ],
    ]


@pytest.mark.parametrize(
    ("beside", "asynchronous"),
    some_here(product([False, True], [False, True]), [(False, False), (True, True)]),
)
def test_a_crew(
    url: str, serve: Serve, exporter: InMemorySpanExporter, beside: bool, asynchronous: bool
) -> None:
    serve()
    durable, run_id = crew(beside=beside), unique("run")
    with SetWorkflowID(run_id):
        if asynchronous:
            asyncio.run(durable.akickoff({"what": "otters"}))
        else:
            durable.kickoff({"what": "otters"})
    spans = ours(exporter)
    name = durable.crew_name
    tasks = [of_task("task 1.find"), of_task("task 2")]
    assert tree(spans) == [[f"run {name}", [[f"crew {name}", tasks]]]]
    assert len({span.context.trace_id for span in spans}) == 1
    own = [span for span in spans if span.name != "users own"]
    assert {attributes(span)["crewai_dbos.run_id"] for span in own} == {run_id}
    chat = attributes(next(span for span in spans if span.name.startswith("chat")))
    assert chat["gen_ai.operation.name"] == "chat"
    assert chat["gen_ai.request.model"] == "gpt-4o-mini"
    assert chat["gen_ai.usage.input_tokens"] > 0
    assert chat["gen_ai.usage.output_tokens"] > 0
    recorded = {step["function_name"] for step in DBOS.list_workflow_steps(run_id)}
    assert chat["crewai_dbos.entry"] in recorded
    run = attributes(next(span for span in spans if span.name.startswith("run ")))
    assert run["crewai_dbos.definition"] == name
    assert run["crewai_dbos.kind"] == "crew"
    told = json.dumps([span.to_json() for span in spans])
    assert "otters" not in told
    assert "swim" not in told


def test_nothing_without_a_provider(url: str, serve: Serve) -> None:
    serve()
    run_id = unique("run")
    with SetWorkflowID(run_id):
        crew().kickoff({"what": "otters"})
    status = DBOS.get_workflow_status(run_id)
    assert status is not None
    assert "dbos.otelContext" not in (status.attributes or {})


def test_an_error_is_a_class_and_no_text(
    url: str, serve: Serve, exporter: InMemorySpanExporter
) -> None:
    serve()
    crew(fails=True).kickoff({"what": "otters"})
    failed = [span for span in ours(exporter) if span.name == "execute_tool search"]
    assert {attributes(span)["error.type"] for span in failed} == {"LookupError"}
    assert not any(span.status.is_ok for span in failed)
    assert "secrets" not in json.dumps(
        [span.to_json() for span in ours(exporter) if span.name != "users own"]
    )


def test_a_failed_flow(url: str, serve: Serve, exporter: InMemorySpanExporter) -> None:
    class Broken(Flow[Any]):
        @start()
        def fail(self) -> None:
            raise ValueError("no secrets in spans")

    durable = DBOSFlow(flow_name=unique("broken"), orig_flow=Broken)
    with pytest.raises(ValueError, match="secrets"):
        durable.kickoff()
    spans = {span.name.split()[0]: span for span in ours(exporter)}
    assert set(spans) == {"run", "flow", "method"}
    assert {attributes(span)["error.type"] for span in spans.values()} == {"ValueError"}
    assert "secrets" not in json.dumps([span.to_json() for span in spans.values()])


def test_what_is_replayed_is_marked_and_has_no_tokens(
    url: str, serve: Serve, exporter: InMemorySpanExporter
) -> None:
    server = serve()
    run_id = unique("run")
    with SetWorkflowID(run_id):
        crew().kickoff({"what": "otters"})
    steps = DBOS.list_workflow_steps(run_id)
    last = [step for step in steps if "/llm#" in step["function_name"]][-1]
    exporter.clear()
    DBOS.fork_workflow(run_id, last["function_id"]).get_result()
    assert len(server.requests) == 5
    spans = ours(exporter)
    replayed = {
        attributes(span)["crewai_dbos.entry"]: attributes(span).get("crewai_dbos.replayed", False)
        for span in spans
        if "crewai_dbos.entry" in attributes(span)
    }
    for step in steps:
        if step["function_name"] in replayed:
            assert replayed[step["function_name"]] == (step != last)
    places = {
        span.name: attributes(span).get("crewai_dbos.replayed", False)
        for span in spans
        if span.name.startswith(("task", "crew"))
    }
    assert places["task 1.find"] is True
    assert places["task 2"] is False
    billed = [span for span in spans if "gen_ai.usage.input_tokens" in attributes(span)]
    assert [attributes(span)["crewai_dbos.entry"] for span in billed] == [last["function_name"]]


@pytest.mark.parametrize("how", ["kickoff", "start", "akickoff", "kickoff_for_each"])
def test_a_run_belongs_to_the_trace_of_its_caller_also_when_it_goes_on(
    url: str, serve: Serve, exporter: InMemorySpanExporter, how: str
) -> None:
    serve()
    durable, run_id = crew(), unique("run")
    tracer = trace.get_tracer("users")
    with tracer.start_as_current_span("request") as caller, SetWorkflowID(run_id):
        if how == "start":
            durable.start({"what": "otters"}).get_result()
        elif how == "akickoff":
            asyncio.run(durable.akickoff({"what": "otters"}))
        elif how == "kickoff_for_each":
            durable.kickoff_for_each([{"what": "otters"}])
            run_id = f"{run_id}/1"
        else:
            durable.kickoff({"what": "otters"})
    wanted = caller.get_span_context()
    spans = ours(exporter)
    assert {span.context.trace_id for span in spans} == {wanted.trace_id}
    (run,) = [span for span in spans if span.name.startswith("run ")]
    assert run.parent is not None
    assert run.parent.span_id == wanted.span_id
    exporter.clear()
    steps = DBOS.list_workflow_steps(run_id)
    DBOS.rewind_workflow(run_id, start_step=steps[-1]["function_id"])
    DBOS.retrieve_workflow(run_id).get_result()
    again = ours(exporter)
    assert {span.context.trace_id for span in again} == {wanted.trace_id}
    (run,) = [span for span in again if span.name.startswith("run ")]
    assert run.parent is not None
    assert run.parent.span_id == wanted.span_id


def test_beside_spans_of_dbos(tmp_path: Any, serve: Serve, exporter: InMemorySpanExporter) -> None:
    serve()
    DBOS.destroy()
    durable = crew()
    with (
        launched(f"sqlite:///{tmp_path}/dbos.sqlite", enable_otlp=True),
        trace.get_tracer("users").start_as_current_span("request"),
    ):
        durable.start({"what": "otters"}).get_result()
    every = list(exporter.get_finished_spans())
    assert len({span.context.trace_id for span in every}) == 1
    by_id = {span.context.span_id: span for span in every}

    def outside(span: ReadableSpan) -> list[str]:
        found = []
        while span.parent is not None:
            span = by_id[span.parent.span_id]
            found.append(span.name)
        return found

    (run,) = [span for span in every if span.name.startswith("run ")]
    assert outside(run) == ["crewai_dbos.crew", "request"]
    chats = [span for span in every if span.name.startswith("chat")]
    assert len(chats) == 4
    for chat in chats:
        inside = [s for s in every if s.parent and s.parent.span_id == chat.context.span_id]
        assert [span.name for span in inside] == [attributes(chat)["crewai_dbos.entry"]]
