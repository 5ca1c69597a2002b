"""The page in a real browser: what is seen, pressed, typed and read out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
from crewai.tools import tool
from dbos import SetWorkflowID
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect

from crewai_dbos import DBOSCrew, People
from crewai_dbos.control import Approve, Control, Request
from crewai_dbos.http import application, page
from crewai_dbos.testing import ToolCall, text, tool_calls
from front import browsing
from front.browsing import Visit
from front.conftest import TOKEN, approved, crew, refund
from front.tools import SENT, mail
from people.conftest import until
from support.databases import some_here
from support.entries import how_many
from support.names import unique
from support.serving import Serve

pytestmark = [pytest.mark.browser, pytest.mark.crash]

APPROVE = "Approve with these values"


@pytest.fixture(scope="module")
def launched() -> Iterator[Browser]:
    with browsing.browser() as found:
        yield found


@pytest.fixture(scope="module")
def base(url: str) -> Iterator[str]:
    """The page for whoever sits here, and at /desk another for those with the token."""
    with Control(url) as control:
        app = FastAPI()
        app.include_router(page(control, tokens=[TOKEN]), prefix="/desk")
        app.mount("/", application(control, local_only=True))
        with browsing.served(app) as address:
            yield address


Visits = Callable[..., Visit]


@pytest.fixture
def visit(launched: Browser, base: str) -> Iterator[Visits]:
    """Opens a browser as if new; nothing may have gone wrong in it in the end."""
    begun: list[Visit] = []

    def begin(**options: Any) -> Visit:
        begun.append(Visit(launched, base, **options))
        return begun[-1]

    yield begin
    for each in begun:
        each.close()


def begin(definition: DBOSCrew, topic: str = "otters") -> str:
    """Start a run: on another thread, as the browser's event loop runs in this one."""

    def start() -> str:
        run_id = unique("run")
        with SetWorkflowID(run_id):
            definition.start({"topic": topic})
        return run_id

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(start).result()


def asked(control: Control, run_id: str) -> Request:
    (request,) = until(lambda: control.requests(run_id=run_id))
    return request


def in_state(control: Control, run_id: str, state: str) -> None:
    until(lambda: control.run(run_id).state == state)


def at(path: str) -> str:
    return quote(path, safe="")


def mailing(model: Serve, *, human: bool = False) -> DBOSCrew:
    """A crew whose mail is approved."""
    arguments = {"to": "ann", "body": "Dear Ann,\n\nyours.", "count": 2}
    model(lambda r: text("Done.") if r.tool_results else tool_calls(ToolCall("mail", arguments)))
    return crew(mail, human=human, people=People(approve_tools=["mail"], linger=0.05))


def open_request(tab: Page, run_id: str, request: Request) -> None:
    """As somebody gets there who has opened the page: by the run."""
    tab.goto("/")
    tab.get_by_role("link", name=run_id, exact=True).click()
    tab.get_by_role("link", name=request.question.message).first.click()


def test_runs_are_found(visit: Visits, control: Control) -> None:
    clerks = crew()
    run_id, other = begin(clerks), begin(crew())
    for each in (run_id, other):
        in_state(control, each, "done")
    tab = visit().page
    tab.goto("/")
    link = tab.get_by_role("link", name=run_id, exact=True)
    expect(link).to_be_visible()
    tab.get_by_role("searchbox", name="Text").fill(run_id)
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("row")).to_have_count(2)
    expect(link).to_be_visible()
    tab.get_by_role("combobox", name="State").select_option("failed")
    tab.get_by_role("button", name="Filter").click()
    expect(tab.get_by_text("No runs fit.")).to_be_visible()
    tab.get_by_role("link", name="Show all").click()
    tab.get_by_role("textbox", name="Definition").fill(str(clerks.crew_name))
    tab.get_by_role("combobox", name="Started in").select_option("the last hour")
    tab.get_by_role("button", name="Filter").click()
    expect(tab.get_by_role("link", name=other, exact=True)).to_have_count(0)
    link.click()
    expect(tab.get_by_role("heading", level=1)).to_contain_text(run_id)
    tree = tab.get_by_role("table")
    expect(tree.get_by_role("rowheader").first).to_have_text("task:1.job")
    tree.get_by_role("link", name="llm", exact=True).click()
    expect(tab.get_by_role("region", name="llm")).to_contain_text("Done: otters")


def test_a_run_is_followed_as_it_goes_on(visit: Visits, control: Control, model: Serve) -> None:
    """Nothing is loaded anew, and what somebody does on the page meanwhile stays."""
    reached, goes_on = threading.Event(), threading.Event()

    @tool("look")
    def look(what: str) -> str:
        """Look."""
        reached.set()
        assert goes_on.wait(60)
        return "seen"

    def script(request: Any) -> Any:
        if request.tool_results:
            return text("There are otters.")
        return tool_calls(ToolCall("look", {"what": "otters"}))

    model(script)
    clerks = crew(look)
    run_id = begin(clerks)
    assert reached.wait(60)
    visitor = visit()
    tab, listed = visitor.page, visitor.tab()
    tab.goto(f"/run/{run_id}")
    listed.goto(f"/?definition={clerks.crew_name}")
    row = tab.get_by_role("row").filter(has_text="tool:look")
    expect(row.get_by_role("img", name="running")).to_be_visible()
    expect(listed.get_by_role("row").filter(has_text=run_id)).to_contain_text("running")
    for each in (tab, listed):
        each.evaluate("window.isTheSame = true")
    tab.bring_to_front()
    tab.get_by_role("link", name="tool:look").focus()
    tab.evaluate("document.querySelector('details').open = true")
    goes_on.set()
    expect(tab.get_by_role("region", name="Output")).to_contain_text("There are otters.")
    expect(tab.get_by_role("status")).to_have_text([f"Run {run_id} is done"])
    expect(row.get_by_role("img", name="done")).to_be_visible()
    expect(tab.get_by_role("link", name="tool:look")).to_be_focused()
    expect(tab).to_have_title(f"done · {run_id} · crewai-dbos")
    listed.bring_to_front()
    expect(listed.get_by_role("row").filter(has_text=run_id)).to_contain_text("done")
    for each in (tab, listed):
        assert each.evaluate("window.isTheSame")


def test_what_somebody_types_stays_while_the_run_goes_on(visit: Visits, control: Control) -> None:
    run_id = begin(approved())
    request = asked(control, run_id)
    in_state(control, run_id, "waiting")
    tab = visit().page
    tab.clock.install()
    tab.goto(f"/run/{run_id}")
    tab.get_by_text("Cancel", exact=True).click()
    why = tab.get_by_role("textbox", name="Reason")
    why.fill("It is off.")
    control.cancel(run_id, by="bob")
    tab.clock.run_for(20_000)
    expect(why).to_have_value("It is off.")
    expect(why).to_be_focused()
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("alert")).to_contain_text("was cancelled already")
    assert control.request(request.request_id).state == "withdrawn"


def test_an_approval_with_other_arguments(visit: Visits, control: Control, model: Serve) -> None:
    SENT.clear()
    run_id = begin(mailing(model))
    request = asked(control, run_id)
    tab = visit().page
    open_request(tab, run_id, request)
    form = tab.get_by_role("group", name="What mail is called with")
    expect(form.get_by_role("textbox", name="body")).to_have_value("Dear Ann,\n\nyours.")
    form.get_by_role("textbox", name="to").fill("bob")
    form.get_by_role("spinbutton", name="count").fill("3")
    form.get_by_role("combobox", name="how").select_option("high")
    form.get_by_role("combobox", name="safe").select_option("yes")
    tab.get_by_role("button", name=APPROVE).click()
    expect(tab.get_by_role("heading", name="Answered by")).to_be_visible()
    in_state(control, run_id, "done")
    assert SENT == [("bob", "Dear Ann,\n\nyours.", 3, "high", True)]


def test_a_request_that_somebody_else_answers(
    visit: Visits, control: Control, model: Serve
) -> None:
    """Whoever looks sees it; whoever fills it in keeps what they have chosen."""
    run_id = begin(mailing(model))
    request = asked(control, run_id)
    visitor = visit()
    looking, filling = visitor.page, visitor.tab()
    for tab in (looking, filling):
        tab.clock.install()
        tab.goto(f"/request/{request.request_id}")
    how = filling.get_by_role("combobox", name="how")
    how.select_option("high")
    how.blur()
    control.answer(request.request_id, Approve(), by="bob")
    for tab in (looking, filling):
        tab.clock.run_for(20_000)
    expect(looking.get_by_role("heading", name="Answered by bob")).to_be_visible()
    expect(looking.get_by_role("status")).to_contain_text("answered by bob")
    expect(how).to_have_value('"high"')
    filling.get_by_role("button", name=APPROVE).click()
    expect(filling.get_by_role("alert")).to_contain_text("was answered by bob")


def test_enter_in_a_field_approves_nothing(visit: Visits, control: Control, model: Serve) -> None:
    run_id = begin(mailing(model))
    request = asked(control, run_id)
    tab = visit().page
    open_request(tab, run_id, request)
    tab.evaluate("document.addEventListener('submit', () => { window.isSent = true; })")
    tab.get_by_role("spinbutton", name="count").press("Enter")
    assert not tab.evaluate("window.isSent")
    assert control.request(request.request_id).state == "open"


@pytest.mark.parametrize("script", some_here([True, False], [False]))
def test_everything_is_done_without_javascript_too(
    script: bool, visit: Visits, control: Control
) -> None:
    run_id = begin(approved())
    request = asked(control, run_id)
    tab = visit(java_script_enabled=script).page
    open_request(tab, run_id, request)
    tab.get_by_role("textbox", name="Reason for rejecting").fill("Too early.")
    tab.get_by_role("button", name="Reject").click()
    expect(tab.get_by_role("group", name="The answer")).to_contain_text("Too early.")
    in_state(control, run_id, "done")
    assert control.request(request.request_id).answer == {"is": "reject", "reason": "Too early."}

    run_id = begin(approved())
    request = asked(control, run_id)
    tab.goto(f"/run/{run_id}")
    tab.get_by_text("Cancel", exact=True).click()
    tab.get_by_role("textbox", name="Reason").fill("It is off.")
    tab.get_by_role("button", name="Cancel the run").click()
    expect(tab.get_by_text("It is off.")).to_be_visible()
    assert control.run(run_id).state == "cancelled"
    tab.get_by_role("button", name="Resume").click()
    in_state(control, run_id, "waiting")
    tab.goto(f"/request/{request.request_id}")
    tab.get_by_role("button", name=APPROVE).click()
    in_state(control, run_id, "done")

    tab.goto(f"/run/{run_id}")
    tab.get_by_role("link", name="task:1.job").click()
    tab.get_by_role("textbox", name="Or go on with another result").fill("Another line.")
    tab.get_by_role("button", name="Fork with this result").click()
    expect(tab.get_by_text("fork of")).to_be_visible()
    fork_id = tab.url.rpartition("/")[2]
    assert fork_id != run_id
    in_state(control, fork_id, "done")
    assert control.result_of(fork_id)["raw"] == "Another line."


def test_a_form_is_sent_once(visit: Visits, control: Control) -> None:
    run_id = begin(crew())
    in_state(control, run_id, "done")
    tab = visit().page
    tab.goto(f"/run/{run_id}?at={at(control.run(run_id).children[0].path)}")
    tab.get_by_role("button", name="Fork, and run this call again").dblclick()
    expect(tab.get_by_text("fork of")).to_be_visible()
    assert len([run for run in control.runs() if run.forked_from == run_id]) == 1


def test_with_the_keyboard_alone(visit: Visits, control: Control) -> None:
    """Somebody logs in, finds the request, and answers."""
    run_id = begin(approved())
    request = asked(control, run_id)
    tab = visit().page
    tab.goto(f"/desk/request/{request.request_id}")

    def reach(name: str) -> None:
        for _ in range(40):
            tab.keyboard.press("Tab")
            if (tab.evaluate("checks.focus()") or {"name": ""})["name"].startswith(name):
                return
        raise AssertionError(f"{name} is not reached")

    reach("Your name")
    tab.keyboard.type("ann")
    reach("Token")
    tab.keyboard.type(TOKEN)
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", level=1)).to_have_text(request.question.message)
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")  # to the content
    assert tab.evaluate("document.activeElement.id") == "main"
    reach("to")
    tab.keyboard.press("Control+A")
    tab.keyboard.type("bob")
    reach("Approve")
    tab.keyboard.press("Space")
    expect(tab.get_by_role("heading", name="Answered by ann")).to_be_visible()
    in_state(control, run_id, "done")
    assert control.result_of(run_id)["raw"].endswith("sent to bob 1 times")
    # Who has logged in at one page has not logged out of the other, which is beside it.
    tab.goto("/")
    expect(tab.get_by_role("link", name=run_id, exact=True)).to_be_visible()
    tab.goto("/desk/")
    tab.get_by_role("button", name="Log out").click()
    expect(tab.get_by_role("heading", level=1)).to_have_text("Log in")


@pytest.fixture(scope="module")
def places(url: str) -> Callable[[Serve], dict[str, str]]:
    """Makes one run of each kind, once; returns the page of each thing there is to look at."""
    made: dict[str, str] = {}

    def make(model: Serve) -> dict[str, str]:
        if not made:
            with Control(url) as control:
                made.update(_made(control, model))
        return made

    return make


def _made(control: Control, model: Serve) -> dict[str, str]:
    question = begin(crew(refund))
    review = begin(crew(human=True))
    requests = {
        name: asked(control, run_id)
        for name, run_id in {"a question": question, "a review": review}.items()
    }
    done = begin(crew())
    in_state(control, done, "done")
    waiting = begin(mailing(model))
    requests["an approval"] = asked(control, waiting)
    model(lambda _: text(""))
    failed = begin(crew(), "a long topic " * 30)
    in_state(control, failed, "failed")
    task = control.run(done).children[0].path
    return {
        "runs": "/",
        "no runs": "/?state=stranded",
        "requests": "/requests",
        "workers": "/workers",
        "a run": f"/run/{done}",
        "a call": f"/run/{done}?at={at(task)}",
        "a run that waits": f"/run/{waiting}",
        "a run that failed": f"/run/{failed}",
        "nothing": "/run/nobody",
        "the door": "/desk/login",
        **{name: f"/request/{each.request_id}" for name, each in requests.items()},
    }


WIDTHS = (1280, 760, 390, 320)


@pytest.mark.some_entries
def test_each_page_is_seen_and_heard_and_goes_by_keyboard(
    visit: Visits, model: Serve, places: Any
) -> None:
    """In both themes, at every width, read out, and with Tab alone."""
    # What is too faint depends on the theme, what is too wide or too low on the width.
    themes = {"light": WIDTHS, "dark": WIDTHS[: how_many(1, len(WIDTHS))]}
    found = []
    tab = visit().page
    for name, path in places(model).items():
        tab.goto(path)
        found += [(name, each) for each in tab.evaluate("checks.hear()")]
        for theme, widths in themes.items():
            tab.emulate_media(color_scheme=theme)
            for width in widths:
                tab.set_viewport_size({"width": width, "height": 900})
                found += [(name, theme, width, each) for each in tab.evaluate("checks.look()")]
        tab.set_viewport_size({"width": 1280, "height": 900})
        found += [(name, each) for each in _by_keyboard(tab)]
    assert not found, "\n".join(map(str, found))


def _by_keyboard(tab: Page) -> Iterator[str]:
    """What is wrong with going through a page with Tab."""
    tab.evaluate("document.activeElement.blur()")
    places = []
    while len(places) < 400:
        tab.keyboard.press("Tab")
        focus = tab.evaluate("checks.focus()")
        if focus is None or focus["place"] in places:
            break
        places.append(focus["place"])
        if not focus["name"] or not focus["isSeen"]:
            yield f"not seen when it has the focus: {focus}"
    if places != sorted(places):
        yield "the order is another one"
    count = tab.locator(
        "a:visible, button:visible:enabled, input:visible, select:visible, textarea:visible, "
        "summary:visible, pre:visible"
    ).count()
    if len(places) < count:
        yield f"{count - len(places)} can't be reached"
