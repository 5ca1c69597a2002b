"""An error in a user's function leads to it: by its traceback, and later by what is stored."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, start
from dbos import DBOS, SetWorkflowID

import crewai_dbos
from crewai_dbos import DBOSCrew, DBOSFlow, errors
from crewai_dbos._stored.errors import decode_error, encode_error
from crewai_dbos.testing import error as refusal
from crewai_dbos.testing import text
from support.databases import some_here
from support.launching import launched
from support.names import unique
from support.serving import serving


class Lost(Exception):
    pass


def fail(secret: str) -> Any:
    raise Lost("It is gone.") from KeyError(secret)


def its_function(*_: Any) -> Any:
    """Is a callback, a guardrail, a step: whatever the run calls of the user's."""
    return fail("4711")


async def its_async_function(*_: Any) -> Any:
    await asyncio.sleep(0)
    return fail("4711")


def guard(output: Any):  # type: ignore[no-untyped-def]  # crewAI wants Tuple or nothing
    its_function()
    return True, output


def crew_with(**options: Any) -> DBOSCrew:
    of_task = {name: options.pop(name) for name in ("callback", "guardrail") if name in options}
    agent = Agent(role="Clerk", goal="Answer", backstory="Old", llm="gpt-4o-mini")
    task = Task(description="Answer", expected_output="A line", agent=agent, **of_task)
    crew = Crew(agents=[agent], tasks=[task], **options)
    return DBOSCrew(crew_name=unique("crew"), orig_crew=crew)


def flow_that(method: Any) -> DBOSFlow:
    class Failing(Flow[dict[str, Any]]):
        one = start()(method)

    return DBOSFlow(flow_name=unique("flow"), orig_flow=Failing)


def takes_a_step(self: Any) -> None:
    crewai_dbos.step(its_function, 7)


async def takes_an_async_step(self: Any) -> None:
    await asyncio.to_thread(crewai_dbos.step, its_async_function, 7)


def fails_by_itself(self: Any) -> None:
    its_function()


MAKE: dict[str, Callable[[], Any]] = {
    "task callback": lambda: crew_with(callback=its_function),
    "guardrail": lambda: crew_with(guardrail=guard),
    "before_kickoff": lambda: crew_with(before_kickoff_callbacks=[its_function]),
    "after_kickoff": lambda: crew_with(after_kickoff_callbacks=[its_function]),
    "step": lambda: flow_that(takes_a_step),
    "async step": lambda: flow_that(takes_an_async_step),
    "method": lambda: flow_that(fails_by_itself),
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url = f"sqlite:///{tmp_path_factory.mktemp('raised')}/dbos.sqlite"
    with launched(url):
        yield url


@pytest.fixture(autouse=True)
def served(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    servers = serving(monkeypatch, lambda request: text("Yes."))
    next(servers)()
    yield
    next(servers, None)


def kickoff(durable: Any, run_id: str) -> None:
    with SetWorkflowID(run_id):
        durable.kickoff()


def akickoff(durable: Any, run_id: str) -> None:
    async def work() -> None:
        with SetWorkflowID(run_id):
            await durable.akickoff()

    asyncio.run(work())


def frames(error: BaseException) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def of_ours(frame: FrameType) -> bool:
    return str(frame.f_globals["__name__"]).split(".")[0] in ("crewai_dbos", "dbos")


def check_leads_to_the_user(error: BaseException) -> None:
    found = frames(error)
    assert [frame.f_code.co_name for frame in found][-1] == "fail"
    assert found[-2].f_code.co_name in ("its_function", "its_async_function")
    assert found[-1].f_locals["secret"] == "4711", "a debugger shows what it was called with"
    assert len([frame for frame in found if of_ours(frame)]) <= 3
    assert len(traceback.format_exception(error)) < 45


def check_tells_of_it(error: BaseException) -> None:
    (note,) = getattr(error, "__notes__", [""])
    _, first = inspect.getsourcelines(fail)
    assert f'File "{__file__}", line {first + 1}, in fail' in note
    assert "its_function" in note or "its_async_function" in note
    assert "4711" not in note


ASK = {"sync": kickoff, "async": akickoff}
OF_ITS_OWN_WAY = [(what, "async") for what in ("task callback", "async step", "method")]


@pytest.mark.parametrize(
    ("what", "how"),
    some_here(itertools.product(MAKE, ASK), [*((what, "sync") for what in MAKE), *OF_ITS_OWN_WAY]),
)
def test_a_run(what: str, how: str) -> None:
    durable, ask, run_id = MAKE[what](), ASK[how], unique("run")
    with pytest.raises(Lost, match="It is gone") as caught:
        ask(durable, run_id)
    check_leads_to_the_user(caught.value)
    assert not getattr(caught.value, "__notes__", [])

    def later() -> None:
        durable.retrieve(run_id).get_result()

    for again in (lambda: ask(durable, run_id), later):
        with pytest.raises(Lost, match="It is gone") as caught:
            again()
        check_tells_of_it(caught.value)
        assert len(traceback.format_exception(caught.value)) < 20


def its_last_resort() -> None:
    raise LookupError("There is no other.")


def tries_twice(self: Any) -> None:
    try:
        crewai_dbos.step(its_function, 7)
    except Lost:
        crewai_dbos.step(its_last_resort)


def test_the_causes_are_shown_without_our_frames_too() -> None:
    durable, run_id = flow_that(tries_twice), unique("run")
    with pytest.raises(LookupError, match="no other") as caught:
        kickoff(durable, run_id)
    first = caught.value.__cause__ or caught.value.__context__
    assert isinstance(first, Lost)
    check_leads_to_the_user(first)
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("_journal") == 0
    assert "in tries_twice" in shown
    assert "in its_last_resort" in shown


def test_a_request_that_crewai_makes_three_times_is_shown_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = serving(monkeypatch, lambda request: refusal(401))
    server = next(servers)()
    crew, run_id = crew_with(), unique("run")
    with pytest.raises(Exception, match="Incorrect API key") as caught:
        kickoff(crew, run_id)
    assert len(server.requests) == 3
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("Traceback (most recent call last)") == 1
    assert shown.count("Incorrect API key") == 1
    assert "_journal" not in shown
    next(servers, None)


CAUGHT: list[Exception] = []


@DBOS.workflow()
def goes_on(name: str) -> str:
    try:
        WORK[name]()
    except Lost as error:
        CAUGHT.append(error)
    return "went on"


WORK: dict[str, Callable[[], Any]] = {
    "step": lambda: crewai_dbos.step(its_function, 7),
    "crew": lambda: CREW["made"].kickoff(),
}
CREW: dict[str, DBOSCrew] = {}


@pytest.mark.parametrize("name", WORK)
def test_work_in_a_workflow_that_catches_the_error(name: str) -> None:
    CREW["made"] = crew_with(callback=its_function)
    CAUGHT.clear()
    with SetWorkflowID(run_id := unique("run")):
        assert goes_on(name) == "went on"
    check_leads_to_the_user(CAUGHT[0])
    last = DBOS.list_workflow_steps(run_id)[-1]["function_id"]
    assert DBOS.fork_workflow(run_id, last + 1).get_result() == "went on"
    assert type(CAUGHT[1]) is Lost
    check_tells_of_it(CAUGHT[1])


def test_what_the_user_has_noted_is_kept() -> None:
    def noting() -> None:
        error = Lost("It is gone.")
        error.__notes__ = ["Ask ann, the key is 4711."]  # type: ignore[attr-defined]
        raise error

    with pytest.raises(Lost) as raised:
        noting()
    data = json.loads(json.dumps(encode_error(raised.value, ["4711"])))
    assert decode_error(data).__notes__ == ["Ask ann, the key is ***."]  # type: ignore[attr-defined]


def test_paths_and_names_only_are_stored_and_no_secret() -> None:
    folder = "/home/4711"
    names: dict[str, Any] = {}
    exec(compile("def key_4711():\n    raise ValueError('no')", f"{folder}/a.py", "exec"), names)
    with pytest.raises(ValueError, match="no") as raised:
        names["key_4711"]()
    stored = encode_error(raised.value, ["4711"])
    assert stored["raised"][-1] == ["/home/***/a.py", 2, "key_***"]


def test_rows_of_earlier_versions_are_read() -> None:
    stored = encode_error(Lost("It is gone."))
    assert "raised" not in stored, "it was never raised"
    assert type(decode_error(stored)) is Lost
    for wrong in ("a.py", [["a.py", "1", "f"]], [["a.py", 1]], [7]):
        with pytest.raises(errors.UnstorableValueError):
            decode_error({**stored, "raised": wrong})


def test_a_deep_recursion_is_told_by_its_ends() -> None:
    def down(n: int) -> None:
        if n == 0:
            raise Lost("It is gone.")
        down(n - 1)

    with pytest.raises(Lost) as raised:
        down(100)
    assert len(encode_error(raised.value)["raised"]) == 10


def test_redaction_sees_it() -> None:
    flow = flow_that(takes_a_step)
    flow = DBOSFlow(
        flow_name=unique("flow"),
        orig_flow=flow._durable.source,
        redact=lambda told: told.replace("its_function", "[a function]"),
    )
    kicked = unique("run")
    with pytest.raises(Lost):
        kickoff(flow, kicked)
    with pytest.raises(Lost) as caught:
        kickoff(flow, kicked)
    (note,) = caught.value.__notes__  # type: ignore[attr-defined]
    assert "in [a function]" in note
    assert "in fail" in note


def test_a_file_whose_name_is_no_text_and_a_frame_without_a_line() -> None:
    code = compile("def fail():\n    raise ValueError('x')", "caf\udce9.py", "exec")
    scope: dict[str, Any] = {}
    exec(code, scope)
    scope["fail"].__code__ = scope["fail"].__code__.replace(co_linetable=b"")
    with pytest.raises(ValueError, match="x") as caught:
        scope["fail"]()
    stored = encode_error(caught.value)
    json.dumps(stored, ensure_ascii=False).encode()
    assert ["caf?.py", 0, "fail"] in stored["raised"]
    assert str(decode_error(stored)) == "x"


def test_a_row_can_not_set_what_python_keeps_of_an_error() -> None:
    stored = {**encode_error(ValueError("x")), "attrs": {"__notes__": [1], "__dict__": 2, "own": 3}}
    error = decode_error(stored)
    assert vars(error) == {"own": 3}
