"""Everything that users call shows in its docstring how, and what it shows is run."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import os
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, start
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._requests.store import Store
from crewai_dbos._runs.registry import agents, crews, flows
from crewai_dbos.control import Control, Question
from crewai_dbos.testing import ModelServer
from flows.conversation import Desk, replies
from support.launching import launched
from support.names import unique

MODULES = (
    "crewai_dbos",
    "crewai_dbos.control",
    "crewai_dbos.doctor",
    "crewai_dbos.encryption",
    "crewai_dbos.http",
    "crewai_dbos.testing",
    "crewai_dbos.testing.crash",
    "crewai_dbos.testing.history",
)

NOT_RUN = {
    "CrashTest": "a crash test runs for a minute; docs/prove-it-survives.md is run as a whole",
    "Worker": "launches a second DBOS; docs/workers.md is run as a whole",
    "EncryptedSerializer": "constructs a second DBOS; docs/encryption.md is run as a whole",
}
"""What is only compiled, with its methods."""

NOT_CALLED = {
    "DBOSAgent": ("copy", "get_output_converter", "invoke_executor", "ainvoke_executor"),
    "DBOSAgentExecutor": ("", "invoke", "invoke_async"),
    "DBOSCrew": ("copy", "replay"),
    "DBOSFlow": ("show_as", "plot", "from_pending"),
    "DBOSLLM": ("call", "acall", "get_input_tokens_count", "summarize_messages"),
    "EncryptedSerializer": ("name", "serialize", "deserialize", "digest_key"),
    "Hang": ("", "hold"),
    "People": ("wants",),
    "StepConfig": ("wait_before", "step_options"),
}
"""Methods that crewAI, DBOS or the package calls, or that only say what to call; ""`` for a class
that users do not make themselves."""

RETURNED = ("ApiError", "Cost", "Delayed", "Drop", "Effect", "Event", "Finding", "Item", "Message")
RETURNED += ("Observed", "Position", "Question", "Report", "Request", "Tokens", "ToolRequest")
RETURNED += ("Content", "Verdict")
"""Plain data that users are given and do not make."""


def public() -> Iterator[tuple[str, Any]]:
    """Every callable that users may call, by its name."""
    seen: set[str] = set()
    for module in map(importlib.import_module, MODULES):
        own = [
            name
            for name, each in vars(module).items()
            if not name.startswith("_") and getattr(each, "__module__", "") == module.__name__
        ]
        for name in getattr(module, "__all__", own):
            found = getattr(module, name)
            home = str(getattr(found, "__module__", ""))
            if name in seen or not callable(found) or not home.startswith("crewai_dbos"):
                continue
            if isinstance(found, type) and issubclass(found, BaseException):
                continue  # docs/errors.md shows them
            if isinstance(found, (type, types.FunctionType)) and name not in RETURNED:
                seen.add(name)
                yield from with_methods(name, found)


def with_methods(name: str, found: Any) -> Iterator[tuple[str, Any]]:
    left_out = NOT_CALLED.get(name, ())
    if "" not in left_out:
        yield name, found
    for method, function in list(vars(found).items()) if isinstance(found, type) else ():
        function = getattr(function, "__func__", function)
        ours = isinstance(function, types.FunctionType) and function.__module__ == found.__module__
        if ours and not method.startswith("_") and method not in left_out:
            yield f"{name}.{method}", function


PUBLIC = dict(public())


def examples_of(found: Any) -> list[str]:
    """The code in the ``Example::`` blocks of a docstring."""
    doc = inspect.cleandoc(found.__doc__ or "")
    blocks = re.findall(r"^Example::\n\n((?:    .*\n?|\n)+)", doc, re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks]


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url = f"sqlite:///{tmp_path_factory.mktemp('examples')}/dbos.sqlite"
    with launched(url):
        yield url


@pytest.fixture
def names(
    request: pytest.FixtureRequest,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[dict[str, Any]]:
    """What an example finds of a definition of each kind, a request, and a model that answers."""
    monkeypatch.chdir(tmp_path)
    for registry in (agents, crews, flows):
        monkeypatch.setattr(registry, "_definitions", {})
    # Where a class of an example is looked for that is stored.
    page = types.ModuleType(unique("page"))
    monkeypatch.setitem(sys.modules, page.__name__, page)
    (tmp_path / "support.sqlite").symlink_to(database_url.removeprefix("sqlite:///"))
    vars(page)["database_url"] = database_url
    used = names_in(examples_of(PUBLIC[request.node.callspec.params["name"]]))
    with ExitStack() as stack:
        for made, make in MAKE.items():
            if made in used:
                vars(page)[made] = make()
        if used & {"control", "run_id", "request", "request_id"}:
            control = stack.enter_context(Control(database_url))
            vars(page).update(asked(control), control=control)
        before = dict(os.environ)
        os.environ.update(stack.enter_context(ModelServer(replies)).env)
        yield vars(page)
    os.environ.clear()
    os.environ.update(before)


def names_in(examples: list[str]) -> set[str]:
    nodes = (node for each in examples for node in ast.walk(ast.parse(each)))
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def clerk() -> Agent:
    return Agent(role="Clerk", goal="Answer", backstory="Old.", llm="gpt-4o-mini")


def about() -> Crew:
    agent = clerk()
    task = Task(description="Write about {topic}", expected_output="A line", agent=agent)
    return Crew(agents=[agent], tasks=[task])


MAKE: dict[str, Callable[[], Any]] = {
    "agent": lambda: DBOSAgent(agent_name=unique("agent"), orig_agent=clerk()),
    "crew": lambda: DBOSCrew(crew_name=unique("crew"), orig_crew=about()),
    "flow": lambda: DBOSFlow(flow_name=unique("flow"), orig_flow=Letter),
    "chat": lambda: DBOSFlow(flow_name=unique("chat"), orig_flow=Desk),
}


def asked(control: Control) -> dict[str, Any]:
    """A request that a run waits for which nobody carries out, and who can answer it."""
    run_id = unique("asking")
    with SetWorkflowID(run_id):
        DBOS.enqueue_workflow("nobody", waits)
    schema = {"properties": {"to": {"type": "string"}}}
    question = Question("May it?", tool="send_email", arguments={"to": "ann"}, schema=schema)
    store = Store(launched_database())
    made = store.ask(run_id, "tool#1", "approval", question.as_json(), audience="support")
    request = control.request(made.request_id)
    return {"run_id": run_id, "request": request, "request_id": request.request_id}


@DBOS.workflow()
def waits() -> None:
    """Never carried out."""


class Letter(Flow[Any]):
    @start()
    def write(self) -> str:
        return f"About {self.state['ticket']}"


@pytest.mark.parametrize("name", PUBLIC)
def test_there_is_an_example_and_it_runs(name: str, names: dict[str, Any]) -> None:
    found = examples_of(PUBLIC[name])
    assert found, f"{name} has no Example:: in its docstring"
    for example in found:
        code = compile(example, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if name.partition(".")[0] in NOT_RUN and not name.endswith("from_environment"):
            continue
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(types.FunctionType(code, names)())
        else:
            exec(code, names)


def test_what_is_left_out_is_there() -> None:
    for name, methods in NOT_CALLED.items():
        found = next(
            getattr(module, name)
            for module in map(importlib.import_module, MODULES)
            if name in getattr(module, "__all__", vars(module))
        )
        assert all(hasattr(found, method) for method in methods if method), name
    assert set(NOT_RUN) <= {name.partition(".")[0] for name in PUBLIC}
