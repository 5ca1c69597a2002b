"""Each of these flows has one fault. The doctor finds it and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from doctor.conftest import Run, report
from doctor.planted import Fault, check

HEAD = """
import datetime
import random
import smtplib
import subprocess
import time
import uuid
from pathlib import Path

import httpx
import requests
from crewai.flow.flow import Flow, and_, listen, or_, router, start
from crewai.flow.human_feedback import human_feedback
from crewai.tools import tool
from dbos import DBOS
from pydantic import BaseModel, Field

import crewai_dbos
from crewai_dbos import DBOSFlow


class Report(BaseModel):
    topic: str = ""
    text: str = ""
    found: list[str] = Field(default_factory=list)
    when: datetime.datetime = Field(default_factory=datetime.datetime.now)
    key: str = Field(default_factory=lambda: str(uuid.uuid4()))


def durable(flow):
    return DBOSFlow(flow_name=flow.__name__, orig_flow=flow)
"""


def one_method(body: str, extra: str = "", decorator: str = "") -> str:
    """A flow with a method that does this."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    return f"""
{extra}
class One(Flow[Report]):
    @start()
    {decorator}
    def write(self):
{lines}

x = durable(One)
"""


def values(name: str, body: str, says: str, extra: str = "") -> Fault:
    place = ("Method 'write'", says)
    return Fault(name, one_method(body, extra), "unrecorded-value", "warning", place)


def effects(name: str, body: str, says: str, extra: str = "", severity: str = "warning") -> Fault:
    place = ("Method 'write'", says)
    return Fault(name, one_method(body, extra), "unrecorded-effect", severity, place)


def sound(name: str, body: str, extra: str = "", decorator: str = "") -> Fault:
    return Fault(name, one_method(body, extra, decorator))


NUMPY = "import numpy as np"
SQLITE = "import sqlite3"
LOG = "import logging\nlog = logging.getLogger('flow')"
KEEP = "def keep(value): return value"

FAULTS = [
    Fault(
        "console",
        one_method("return input('Name? ')"),
        "unrecorded-question",
        "warning",
        ("Method 'write' itself calls input (line ",),
    ),
    Fault(
        "sound_flow",
        """
@tool
def send(to: str) -> str:
    "Send it."
    return requests.post("https://mail.test", data=to).text

@DBOS.step()
def stamp():
    return time.time()

class Sound(Flow[Report]):
    @start()
    def begin(self):
        began = time.time()
        self.state.when = crewai_dbos.now()
        self.state.text = str(crewai_dbos.uuid4()) + str(crewai_dbos.random())
        print(f"{time.time() - began} s", Path("in.txt").read_text())
        with open("in.txt") as source, Path("in.txt").open() as other:
            return source.read() + other.read()

    @listen(begin)
    def fetch(self):
        self.state.found.append(crewai_dbos.step(lambda: requests.get("https://a.test").text))
        crewai_dbos.step(self._save, "text")
        send.run(to="me")
        return stamp()

    @router(fetch)
    def decide(self):
        return "left" if self.state.found else "right"

    @listen("left")
    def go_left(self):
        self.state.text = "left"

    @listen("right")
    def go_right(self):
        self.state.text = "right"

    def _save(self, text):
        Path("out.txt").write_text(text)

x = durable(Sound)
""",
    ),
    Fault(
        "plain_flow_class",
        "class Plain(Flow):\n    @start()\n    def begin(self): ...\nx = Plain",
        "not-durable",
        "warning",
        ("Flow 'Plain' is no DBOSFlow",),
    ),
    Fault(
        "plain_flow",
        "class Plain(Flow):\n    @start()\n    def begin(self): ...\nx = Plain()",
        "not-durable",
        "warning",
        ("Flow 'Plain' is no DBOSFlow",),
    ),
    Fault(
        "flow_given_as_an_object",
        "class Plain(Flow):\n    @start()\n    def begin(self): ...\n"
        "x = DBOSFlow(flow_name='plain', orig_flow=Plain())",
        "definition",
        "error",
        ("orig_flow must be the class Plain",),
    ),
    # The clock and chance ------------------------------------------------------
    values("clock", "self.state.when = datetime.datetime.now()", "datetime.datetime.now (line 38)"),
    values(
        "clock_by_name", "return dt.utcnow()", "dt.utcnow", "from datetime import datetime as dt"
    ),
    values("today", "self.state.topic += str(today())", "today", "today = datetime.date.today"),
    values("yesterday", "return datetime.date.today() - datetime.timedelta(1)", "date.today"),
    values("seconds", "self.state.text = str(time.time())", "time.time"),
    values("began", "began = time.time()\nreturn began, time.time() - began", "time.time"),
    values("dice", "return random.choice([1, 2])", "random.choice"),
    values("dice_by_name", "return randint(1, 6)", "randint", "from random import randint"),
    values("imported_inside", "import secrets as s\nreturn s.token_hex()", "s.token_hex"),
    values("id", "self.state.key = str(uuid.uuid4())", "uuid.uuid4"),
    values("in_a_comprehension", "return [uuid.uuid1() for _ in range(3)]", "uuid.uuid1"),
    values("unseeded", "return random.Random().choice([1, 2])", "random.Random"),
    values("of_the_system", "return random.SystemRandom().random()", "random.SystemRandom"),
    values("shared_dice", "return dice.choice([1, 2])", "dice.choice", "dice = random.Random(7)"),
    values("by_an_alias", "now = datetime.datetime.now\nreturn now()", "now (line"),
    values(
        "in_a_function_inside", "def stamp():\n    return time.time()\nreturn stamp()", "time.time"
    ),
    values("text_of_the_clock", "return time.strftime('%d.%m.')", "time.strftime"),
    values("parts_of_the_clock", "return time.localtime().tm_hour", "time.localtime"),
    values("dice_of_numpy", "return float(np.random.rand())", "np.random.rand", NUMPY),
    values("unseeded_of_numpy", "return np.random.default_rng()", "np.random.default", NUMPY),
    values("printed_and_kept", "print(keep(time.time()))", "time.time", KEEP),
    values("printed_to_a_file", "print(time.time(), file=self.state)", "time.time"),
    values("named_in_a_line", "print(now := time.time())\nreturn now", "time.time"),
    values("in_a_lambda", "stamp = lambda: time.time()\nreturn stamp()", "time.time"),
    values(
        "of_a_class",
        "return Clock.read()",
        "time.time",
        "class Clock:\n    @staticmethod\n    def read(): return time.time()",
    ),
    Fault(
        "in_a_closure",
        """
def make(roll):
    class One(Flow[Report]):
        @start()
        def write(self):
            return roll()

    return One

x = durable(make(random.random))
""",
        "unrecorded-value",
        "warning",
        ("roll (line ",),
    ),
    sound("recorded_names", "return now(), random()", "from crewai_dbos import now, random"),
    sound(
        "names_of_its_own",
        "return time.time(), uuid4()",
        """
class time:
    @staticmethod
    def time(): return 0

def uuid4(): return "fixed"
""",
    ),
    sound("an_argument", "def later(time): return time.time()\nreturn later(self.state)"),
    sound("a_local_name", "random = self.state\nreturn random.choice([1])"),
    sound("a_generator_of_its_own", "return random.Random(self.state.topic).choice([1, 2])"),
    sound("printed", "print('at', datetime.datetime.now(), f'{time.time():.0f}', sep=' ')"),
    sound("logged", "log.info(f'{datetime.datetime.now().isoformat()}')", LOG),
    sound("logged_by_a_local", "import logging\nlogging.getLogger('a').info('%s', uuid.uuid4())"),
    sound("waited", "time.sleep(1 + random.uniform(0, 1))"),
    sound("a_time_of_ones_own", "return time.strftime('%Y', time.gmtime(0)), time.ctime(1)"),
    sound("seeded_of_numpy", "return np.random.default_rng(7).random()", NUMPY),
    sound("unlinked_if_it_is_there", "Path('a').unlink(missing_ok=True)"),
    sound("replaced_in_a_text", "return self.state.text.replace('a', 'b')"),
    sound("measured", "began = datetime.datetime.now()\nprint(datetime.datetime.now() - began)"),
    sound("recorded_value", "return crewai_dbos.step(random.choice, [1, 2])"),
    sound("method_that_is_a_step", "return time.time()", decorator="@DBOS.step()"),
    sound("only_defined", "def later(): return time.time()\nreturn crewai_dbos.step(later)"),
    # What it does outside ------------------------------------------------------
    effects("request", "return requests.post('https://a.test').text", "requests.post"),
    effects("other_request", "return httpx.get('https://a.test').text", "httpx.get"),
    effects(
        "client",
        "with httpx.Client() as client:\n    return client.post('https://a.test').text",
        "client.post",
    ),
    effects(
        "session",
        "return session.get('https://a.test')",
        "session.get",
        "session = requests.Session()",
    ),
    effects(
        "urlopen",
        "from urllib.request import urlopen\nreturn urlopen('https://a.test').read()",
        "urlopen",
    ),
    effects("mail", "smtplib.SMTP('localhost').send_message(self.state.text)", "smtplib.SMTP"),
    effects("command", "subprocess.run(['true'], check=True)", "subprocess.run"),
    effects("shell", "import os\nos.system('true')", "os.system"),
    effects(
        "other_session",
        "import aiohttp\nreturn aiohttp.ClientSession().post('https://a.test')",
        "aiohttp.ClientSession().post",
    ),
    effects("database", "sqlite3.connect('a.db').execute('...')", "sqlite3.connect", SQLITE),
    effects("postgres", "import psycopg\npsycopg.connect('a').execute('...')", "psycopg.connect"),
    effects("moved", "import shutil\nshutil.move('a', 'b')", "shutil.move"),
    effects("emptied", "import shutil\nshutil.rmtree('a')", "shutil.rmtree"),
    effects("removed", "import os\nos.remove('a')", "os.remove"),
    effects("renamed", "Path('a').rename('b')", "rename"),
    effects("unlinked", "Path('a').unlink()", "unlink"),
    effects("copied", "import shutil\nshutil.copy('a', 'b')", "shutil.copy", severity="hint"),
    effects("appended", "with open('log', 'a') as log:\n    log.write('x')", "open"),
    effects("made_new", "Path('log').open(mode='x').close()", "open"),
    effects("changed", "with open('log', 'r+') as log:\n    log.write('x')", "open"),
    effects("mode_in_a_name", "mode = 'a' if self.state.text else 'w'\nopen('log', mode)", "open"),
    effects("mode_in_a_constant", "open('log', MODE)", "open", "MODE = 'a'"),
    effects("written", "open('out', 'w').write('x')", "open", severity="hint"),
    effects("written_text", "Path('out').write_text('x')", "write_text", severity="hint"),
    effects(
        "written_bytes",
        "folder = Path.home() / 'out'\n(folder.parent / 'name').write_bytes(b'x')",
        "write_bytes",
        severity="hint",
    ),
    effects(
        "written_below_a_name",
        "path = Path('out')\npath = path / 'a'\npath.write_text('x')",
        "path.write_text",
        severity="hint",
    ),
    effects(
        "written_below_a_constant",
        "(OUT / 'a').write_text('x')",
        "write_text",
        "OUT = Path('out')",
        "hint",
    ),
    Fault(
        "in_a_helper",
        """
def post(text):
    requests.post("https://a.test", data=text)

class Posting(Flow[Report]):
    def send(self):
        post(self.state.text)

class One(Posting):
    @start()
    def write(self):
        self.send()

x = durable(One)
""",
        "unrecorded-effect",
        "warning",
        ("Method 'write'", "requests.post (line ", " of post)"),
    ),
    sound("recorded_request", "return crewai_dbos.step(requests.post, 'https://a.test').text"),
    sound("no_request", "return requests.utils.quote('a b'), requests.codes.ok"),
    sound(
        "one_name_for_many_texts",
        "text = 'a'\n" + "text = text.replace('a', 'b')\n" * 30 + "self.state.text = text",
    ),
    sound("another_write_text", "self.state.write_text('x')", "Report.write_text = print"),
    Fault(
        "nothing_to_start",
        "class One(Flow):\n    @listen('a')\n    def write(self): ...\nx = durable(One)",
        "no-start",
        "warning",
        ("One",),
    ),
    # What crewAI does not run --------------------------------------------------
    Fault(
        "inherited",
        """
class Base(Flow[Report]):
    @start()
    def begin(self): ...

    @listen(begin)
    def go_on(self): ...

class Special(Base):
    @start()
    def begin(self): ...

    @listen(begin)
    def end(self): ...

x = durable(Special)
""",
        "inherited-methods",
        "warning",
        ("Special inherits 'go_on' from Base",),
    ),
    Fault(
        "overridden",
        """
class Base(Flow[Report]):
    @start()
    def begin(self): ...

    def help(self): ...

class Special(Base):
    @start()
    def begin(self):
        super().begin()
        self.help()

x = durable(Special)
""",
    ),
    # What methods share --------------------------------------------------------
    Fault(
        "two_starts",
        """
class Starts(Flow[Report]):
    @start()
    def one(self):
        self.state.found.append("one")

    @start()
    async def two(self):
        self.state.found += ["two"]

    @start()
    def three(self):
        return self.state.found

x = durable(Starts)
""",
        "shared-field",
        "hint",
        ("'one' and 'two'", "'found'"),
    ),
    Fault(
        "two_listeners",
        """
class Listeners(Flow):
    @start()
    def begin(self): ...

    @listen(begin)
    def one(self):
        self.state["a"] = 1

    @listen(or_(begin, "again"))
    def two(self):
        self._note("two")

    def _note(self, what):
        self.state["a"]["b"] = what

x = durable(Listeners)
""",
        "shared-field",
        "hint",
        ("'one' and 'two'", "'a'"),
    ),
    Fault(
        "one_after_the_other",
        """
class After(Flow[Report]):
    @start()
    def one(self):
        self.state.found.append("one")

    @start("again")
    def other(self):
        self.state.found.append("other")

    @listen(one)
    def two(self):
        self.state.found.append("two")

    @listen(and_(one, two))
    def three(self):
        self.state.found.append("three")

    @router(one)
    def four(self):
        self.state.found.append("four")
        return "again"

x = durable(After)
""",
    ),
    Fault(
        "fields_of_their_own",
        """
class Own(Flow[Report]):
    @start()
    def one(self):
        self.state.text = self.state.topic

    @start()
    def two(self):
        self.state.found.append(self.state.topic)

x = durable(Own)
""",
    ),
    # States --------------------------------------------------------------------
    Fault(
        "local_state_of_models",
        """
def make():
    class Inner(BaseModel):
        text: str = ""

    class Outer(BaseModel):
        inner: list[Inner] = Field(default_factory=list)

    class Local(Flow[Outer]):
        @start()
        def begin(self): ...

    return Local

x = durable(make())
""",
    ),
    Fault(
        "secret_of_a_state",
        """
from pydantic import SecretStr

class Login(BaseModel):
    password: SecretStr | None = None

class One(Flow[Login]):
    @start()
    def begin(self): ...

x = durable(One)
""",
        "unstorable-state",
        "warning",
        ("'password'", "SecretStr"),
    ),
    Fault(
        "hidden_in_a_state",
        """
from pydantic import Field, PrivateAttr

class Login(BaseModel):
    key: str = Field(default="", exclude=True)
    _client: object = PrivateAttr(default=None)

class Shop(BaseModel):
    login: Login | None = None

class One(Flow[Shop]):
    @start()
    def begin(self): ...

x = durable(One)
""",
        "hidden-field",
        "hint",
        ("'_client', 'key' of the model Login are",),
    ),
    Fault(
        "hidden_and_stored_in_a_state",
        """
from crewai_dbos import store_hidden
from pydantic import PrivateAttr

@store_hidden
class Shop(BaseModel):
    _visits: int = PrivateAttr(default=0)

class One(Flow[Shop]):
    @start()
    def begin(self): ...

x = durable(One)
""",
        "stored-hidden",
        "hint",
        ("'_visits' of the state Shop is",),
    ),
    Fault(
        "local_state_of_dataclasses",
        """
from dataclasses import dataclass

def make():
    class Inner(BaseModel):
        text: str = ""

    @dataclass
    class Middle:
        inner: Inner

    class Outer(BaseModel):
        middle: Middle | None = None

    class Local(Flow[Outer]):
        @start()
        def begin(self): ...

    return Local

x = durable(make())
""",
        "unstorable-state",
        "warning",
        ("'middle'", "make.<locals>.Inner"),
    ),
    Fault(
        "secret_in_a_state",
        """
class Shop(BaseModel):
    doors: dict[str, str] = {"front": "hunter2hunter2"}

class Locked(Flow[Shop]):
    @start()
    def begin(self): ...

x = durable(Locked)
""",
        "secret",
        "error",
        ("field 'doors' of the state", "DOOR_PASSWORD", "stored"),
        {"DOOR_PASSWORD": "hunter2hunter2"},
    ),
    Fault(
        "secret_in_a_dict",
        """
class Locked(Flow):
    initial_state = {"door": "hunter2hunter2"}

    @start()
    def begin(self): ...

x = durable(Locked)
""",
        "secret",
        "error",
        ("field 'door' of the state",),
        {"DOOR_PASSWORD": "hunter2hunter2"},
    ),
    Fault(
        "secret_for_a_reviewer",
        """
class Reviewer:
    def request_feedback(self, context, flow):
        return "good"

class Locked(Flow):
    @start()
    @human_feedback(message="The door opens with hunter2hunter2.", provider=Reviewer())
    def begin(self): ...

x = durable(Locked)
""",
        "secret",
        "error",
        ("message of human_feedback of method 'begin'",),
        {"DOOR_PASSWORD": "hunter2hunter2"},
    ),
    # The application -----------------------------------------------------------
    Fault(
        "version_not_set_for_a_flow",
        """
class Pinned(Flow):
    @start()
    def begin(self): ...

x = durable(Pinned)

@DBOS.workflow()
def handle(number): ...

if __name__ == "__main__":
    DBOS(config={"name": "app"})
""",
        "application-version",
        "warning",
    ),
    Fault(
        "flow_on_several_workers",
        """
class Wide(Flow):
    @start()
    def begin(self): ...

x = durable(Wide)
if not x:
    DBOS(config={"name": "app", "application_version": "1"})
""",
        "several-processes",
        "warning",
        ("4 processes",),
        {"WEB_CONCURRENCY": "4"},
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_it_is_found_and_nothing_else(
    fault: Fault,
    module: Callable[[str, str], None],
    doctor: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in fault.env.items():
        monkeypatch.setenv(name, value)
    module(fault.name, HEAD + fault.source)
    check(fault, doctor(f"{fault.name}:x", "--json"))


def test_functions_of_other_modules_of_the_project_are_read(
    module: Callable[[str, str], None], doctor: Run
) -> None:
    module("cards", "import requests\n\ndef add(card):\n    requests.post('https://a.test')\n")
    module(
        "boards",
        "import cards\n\nclass Board:\n    @staticmethod\n    def fill():\n"
        "        cards.add('a')\n",
    )
    body = "from boards import Board\nBoard.fill()"
    fault = effects("across_modules", body, "requests.post (line 4 of add in cards)")
    module(fault.name, HEAD + "import boards\n" + fault.source)
    check(fault, doctor(f"{fault.name}:x", "--json"))


@pytest.mark.parametrize(
    ("body", "rule", "fix"),
    [
        ("requests.post('https://a.test')", "unrecorded-effect", "Put it into a function of yours"),
        ("open('a', 'w')", "unrecorded-effect", "If that matters, put it into a function of yours"),
        (
            "return time.time()",
            "unrecorded-value",
            "Use crewai_dbos.now(), random() or uuid4(), or",
        ),
        ("return input()", "unrecorded-question", "Use self.ask(...), or put it into a function"),
    ],
)
def test_the_fix_is_one_that_works(
    body: str, rule: str, fix: str, module: Callable[[str, str], None], doctor: Run
) -> None:
    """What `requests.post` returns can't be recorded, and what `step` returns can't be awaited."""
    is_sync = one_method(body)
    given = {}
    for name, source in (("fixed", is_sync), ("afixed", is_sync.replace("def w", "async def w"))):
        module(f"{name}_{rule[11:]}_{len(body)}", HEAD + source.replace("One", name))
        (found,) = report(doctor(f"{name}_{rule[11:]}_{len(body)}:x", "--json"))["findings"]
        assert found["rule"] == rule
        given[name] = found["fix"]
    assert given["fixed"].startswith(fix)
    assert given["fixed"].endswith(
        "that returns plain data, and call crewai_dbos.step(that_function, ...)."
    )
    assert given["afixed"] == (
        given["fixed"][:-1]
        + " without await, or await asyncio.to_thread(crewai_dbos.step, that_function, ...)."
    )
