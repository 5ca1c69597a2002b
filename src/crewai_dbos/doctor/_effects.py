"""What code does that is not the same, or is done a second time, when it runs again."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from typing import Literal

from crewai_dbos.doctor._code import Code

Kind = Literal["value", "effect", "overwrite", "question"]
"""Another value the next time; something done again; a file that gets the same content again; a
person who is asked again."""

_CLOCK = {
    *("time.time", "time.time_ns"),
    *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today"),
    "datetime.date.today",
}
_CLOCK_WITHOUT_A_TIME = {
    "time.strftime": 1,
    **dict.fromkeys(("time.localtime", "time.gmtime", "time.ctime", "time.asctime"), 0),
}
"""How many arguments they have at most where they ask the clock."""
_CHANCE = {
    *("uuid.uuid1", "uuid.uuid4", "posix.urandom", "nt.urandom"),
    *("secrets.choice", "secrets.randbelow", "secrets.randbits"),
    *("secrets.token_bytes", "secrets.token_hex", "secrets.token_urlsafe"),
    *(
        f"random.{name}"
        for name in (
            *("random", "randint", "randrange", "randbytes", "getrandbits", "uniform", "gauss"),
            *("choice", "choices", "sample", "shuffle", "triangular", "normalvariate"),
            *("betavariate", "expovariate", "gammavariate", "lognormvariate", "paretovariate"),
            *("vonmisesvariate", "weibullvariate"),
        )
    ),
    *(
        f"numpy.random.{name}"
        for name in (
            *("rand", "randn", "randint", "random", "random_sample", "choice", "bytes"),
            *("shuffle", "permutation", "uniform", "normal", "standard_normal", "poisson"),
            *("beta", "binomial", "exponential", "gamma", "lognormal", "multinomial"),
        )
    ),
}
_GENERATORS = {"random.Random", "numpy.random.default_rng", "numpy.random.mtrand.RandomState"}
"""Chance, if nothing is given to seed them."""

_TELLING = {
    *("builtins.print", "time.sleep", "asyncio.tasks.sleep"),
    *(
        f"{logger}.{level}"
        for logger in ("logging", "logging.Logger", "logging.getLogger")
        for level in ("debug", "info", "warning", "error", "exception", "critical", "log")
    ),
}
"""What a value may go into with which nothing is done."""
_TEXTS = {"builtins.str", "builtins.repr", "builtins.format", "builtins.round", "builtins.int"}
_PARTS = (
    *(ast.Attribute, ast.BinOp, ast.UnaryOp, ast.FormattedValue, ast.JoinedStr, ast.keyword),
    *(ast.Tuple, ast.List, ast.Subscript),
)

_VERBS = ("get", "post", "put", "patch", "delete", "head", "options", "request")
_CLIENTS = (
    *("requests.api", "requests.Session", "requests.sessions.Session", "requests"),
    *("httpx", "httpx.Client", "httpx.AsyncClient", "aiohttp.client.ClientSession"),
    "aiohttp.ClientSession",
)
_EFFECTS = {
    *(f"{client}.{verb}" for client in _CLIENTS for verb in _VERBS),
    *("httpx.stream", "httpx.Client.stream", "httpx.AsyncClient.stream"),
    *("urllib.request.urlopen", "urllib.request.urlretrieve"),
    *("smtplib.SMTP", "smtplib.SMTP_SSL", "smtplib.LMTP"),
    *("posix.system", "nt.system", "os.popen"),
    *(
        f"subprocess.{name}"
        for name in (
            *("run", "call", "check_call", "check_output", "Popen"),
            *("getoutput", "getstatusoutput"),
        )
    ),
    *("sqlite3.connect", "psycopg2.connect", "psycopg.connect"),
    *(f"psycopg.{name}.connect" for name in ("Connection", "AsyncConnection")),
    *(
        f"{system}.{name}"
        for system in ("posix", "nt")
        for name in ("remove", "unlink", "rename", "replace", "rmdir")
    ),
    *("os.removedirs", "os.renames", "shutil.move", "shutil.rmtree", "shutil.copytree"),
    *(f"pathlib.Path.{name}" for name in ("unlink", "rename", "replace", "rmdir")),
}
_UNLESS = {
    "pathlib.Path.unlink": "missing_ok",
    "shutil.rmtree": "ignore_errors",
    "shutil.copytree": "dirs_exist_ok",
}
"""Effects that may as well be done again, if this is True."""
_ASKING = {
    *("builtins.input", "getpass.unix_getpass", "getpass.win_getpass"),
    *("click.termui.prompt", "click.termui.confirm", "rich.prompt.PromptBase.ask"),
}
_OVERWRITING = {
    *("pathlib.Path.write_text", "pathlib.Path.write_bytes"),
    *("shutil.copy", "shutil.copy2", "shutil.copyfile"),
}
_OPENING = {"open": 1, "pathlib.Path.open": 0}
"""Where the mode stands."""


def of_code(code: Code) -> Iterator[tuple[Kind, ast.Call]]:
    """The calls that `code` makes itself, each with what is the matter with it."""
    for call in code.calls():
        name = code.called(call)
        if name in _CLOCK and _measures(code, call):
            continue
        if name in _CLOCK or _asks_the_clock(call, name) or _is_chance(code, call, name):
            if not _is_only_told(code, call):
                yield "value", call
        elif name in _EFFECTS:
            if not _is_true(code, call, _UNLESS.get(name)):
                yield "effect", call
        elif name in _ASKING:
            yield "question", call
        elif name in _OVERWRITING:
            yield "overwrite", call
        elif name in _OPENING:
            modes = _modes(code, call, _OPENING[name])
            if any(set("ax+") & set(mode) and "w" not in mode for mode in modes):
                yield "effect", call
            elif any("w" in mode for mode in modes):
                yield "overwrite", call


def _asks_the_clock(call: ast.Call, name: str | None) -> bool:
    return name in _CLOCK_WITHOUT_A_TIME and len(call.args) <= _CLOCK_WITHOUT_A_TIME[name]


def _is_chance(code: Code, call: ast.Call, name: str | None) -> bool:
    """Whether chance is asked: a generator that is made and not seeded, or that all runs share."""
    if name in _CHANCE or name == "random.SystemRandom":
        return True
    if name in _GENERATORS:
        return not (call.args or call.keywords)
    if not isinstance(call.func, ast.Attribute) or call.func.attr == "seed":
        return False
    return isinstance(code.resolve(call.func.value), random.Random)


def _is_true(code: Code, call: ast.Call, option: str | None) -> bool:
    """Whether an option is written there as True."""
    given = (keyword.value for keyword in call.keywords if keyword.arg == option)
    return option is not None and any(list(code.constants(value)) == [True] for value in given)


def _modes(code: Code, call: ast.Call, place: int) -> list[str]:
    """The modes that a file may be opened in, as far as they are written there."""
    named = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    given = named or call.args[place : place + 1]
    known = (mode for node in given for mode in code.constants(node))
    return [mode for mode in known if isinstance(mode, str)]


def _is_only_told(code: Code, call: ast.Call) -> bool:
    """Whether the value goes into a line of output or a pause, and nowhere else."""
    node: ast.AST = call
    while (parent := code.parents.get(node)) is not None:
        if isinstance(parent, ast.Call) and node is not parent.func:
            name = code.called(parent)
            if name in _TELLING:
                return not any(keyword.arg == "file" for keyword in parent.keywords)
            if name not in _TEXTS:
                return False
        elif not isinstance(parent, (ast.Call, *_PARTS)):
            return False
        node = parent
    return False


def _measures(code: Code, call: ast.Call) -> bool:
    """Whether the time is only taken to see how long something takes."""
    parent = code.parents.get(call)
    if isinstance(parent, ast.Assign) and all(isinstance(t, ast.Name) for t in parent.targets):
        names = {target.id for target in parent.targets if isinstance(target, ast.Name)}
        reads = [
            node
            for node in code.nodes
            if isinstance(node, ast.Name) and node.id in names and isinstance(node.ctx, ast.Load)
        ]
        return bool(reads) and all(_is_difference(code, code.parents.get(node)) for node in reads)
    return _is_difference(code, parent)


def _is_difference(code: Code, node: ast.AST | None) -> bool:
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Sub)
        and _is_time(code, node.left)
        and _is_time(code, node.right)
    )


def _is_time(code: Code, node: ast.expr) -> bool:
    if isinstance(node, ast.Name):
        return all(isinstance(v, ast.Call) and _is_time(code, v) for v in code.assigned(node.id))
    return isinstance(node, ast.Call) and code.called(node) in _CLOCK
