"""A history is data, and what is anything else is refused before any of it is stored."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS, DBOSPortableJSONSerializer, SetWorkflowID
from hypothesis import given
from hypothesis import strategies as st

from crewai_dbos.testing import _plain_pickle, history
from support.entries import how_many
from support.examples import examples
from support.launching import launched
from support.python import python

FOLDER = Path(__file__).parent / "0.1.0"

Json = dict[str, Any]


def kept(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


@pytest.fixture
def office_history() -> Json:
    """A workflow of the user's own, whose inputs and two of whose steps are pickles."""
    return kept("office")


def with_a_child(saved: Json) -> Json:
    """The same history, which began another run with its first step."""
    steps = saved["runs"]["office"]["steps"]
    steps[0] = {**steps[0], "child_workflow_id": "child"}
    saved["runs"]["child"] = kept("office")["runs"]["office"]
    return saved


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database of DBOS's, in which no history gets."""
    url = f"sqlite:///{tmp_path_factory.mktemp('closed')}/dbos.sqlite"
    with launched(url):
        return url


def told(saved: Any, empty: str) -> str:
    """Why it is not restored. Nothing of it is in the database then."""
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        history.restore(saved, empty)
    with sa.create_engine(empty).connect() as connection:
        for table in ("workflow_status", "operation_outputs"):
            assert connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar() == 0
    return str(refusal.value)


# Pickles that are programs ---------------------------------------------------------------


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def encoded(pickled: bytes) -> str:
    return base64.b64encode(pickled).decode()


def in_the_output(saved: Json, text: str) -> str:
    saved["runs"]["office"]["steps"][0]["output"] = text
    return "Run 'office', step 1 (histories.stamp): its output is a pickle that is not plain data"


def in_the_error(saved: Json, text: str) -> str:
    saved["runs"]["office"]["steps"][0].update(output=None, error=text)
    return "Run 'office', step 1 (histories.stamp): its error is a pickle."


def in_the_inputs(saved: Json, text: str) -> str:
    saved["runs"]["office"]["inputs"] = text
    return "Run 'office': its input is a pickle that is not plain data"


def in_a_row_of_ours(saved: Json, text: str) -> str:
    step = saved["runs"]["office"]["steps"][2]
    step.update(output=text, serialization="py_pickle")
    return f"Run 'office', step {step['function_id']} ({step['function_name']}): its output is a "


def of_a_child(saved: Json, text: str) -> str:
    with_a_child(saved)["runs"]["child"]["steps"][0]["output"] = text
    return "Run 'child', step 1 (histories.stamp): its output is a pickle that is not plain data"


def into_a_child(saved: Json, text: str) -> str:
    with_a_child(saved)["runs"]["child"]["inputs"] = text
    return "Run 'child': its input is a pickle that is not plain data"


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize(
    "put",
    [in_the_output, in_the_error, in_the_inputs, in_a_row_of_ours, of_a_child, into_a_child],
)
def test_a_pickle_that_is_a_program(
    put: Callable[[Json, str], str],
    protocol: int,
    office_history: Json,
    tmp_path: Path,
    empty: str,
) -> None:
    path = tmp_path / "touched"
    expected = put(office_history, encoded(pickle.dumps(Touch(path), protocol)))
    message = told(office_history, empty)
    assert message.startswith(expected)
    assert "DBOSPortableJSONSerializer()" in message
    assert not path.exists()


# By hand, as no object is pickled to most of them.
OPCODES = {
    "GLOBAL": b"cos\nsystem\n.",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93.",
    "INST": b"(ios\nsystem\n.",
    "OBJ": b"(No.",
    "EXT1": b"\x82\x01.",
    "EXT2": b"\x83\x01\x00.",
    "EXT4": b"\x84\x01\x00\x00\x00.",
    "PERSID": b"Pid\n.",
    "BINPERSID": b"Nq\x00Q.",
    "REDUCE": b")R.",
    "BUILD": b"}}b.",
    "NEWOBJ": b")\x81.",
    "NEWOBJ_EX": b")}\x92.",
    "NEXT_BUFFER": b"\x97.",
    "STRING": b"S'text'\n.",
    "LONG_BINPUT 2000000000": b"Nr" + (2_000_000_000).to_bytes(4, "little") + b".",
    "PUT -1": b"Np-1\n.",
}


@pytest.mark.parametrize("opcode", OPCODES)
def test_every_way_to_make_more_than_data(opcode: str, office_history: Json) -> None:
    in_the_output(office_history, encoded(OPCODES[opcode]))
    with pytest.raises(ValueError, match=re.escape(f"(it has {opcode} in it)")):
        history.restore(office_history, "sqlite:///nowhere.sqlite")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "pickle exhausted before seeing STOP"),
        ("gASV!", "it is not base64"),
        ("ä", "ASCII"),
        (encoded(b"N"), "pickle exhausted before seeing STOP"),
        (encoded(b"\xff."), "unknown"),
        (encoded(b"a."), "it can't be read"),
        (encoded(b"]N\x85s."), "it can't be read"),
        (encoded(b"(]]u."), "it can't be read"),
        (encoded(b"h\x07."), "it can't be read"),
        (encoded(b"(" * 10_000 + b"t" * 10_000 + b"."), "it is nested too deeply"),
    ],
)
def test_pickles_that_are_none(text: str, why: str, office_history: Json) -> None:
    expected = in_the_output(office_history, text)
    with pytest.raises(ValueError, match=re.escape(expected)) as refusal:
        history.restore(office_history, "sqlite:///nowhere.sqlite")
    assert why in str(refusal.value)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.frozensets(st.integers()),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.tuples(inner, inner)
        | st.sets(st.text())
    ),
    max_leaves=20,
)


@examples(30, 100)
@given(PLAIN, st.integers(4, pickle.HIGHEST_PROTOCOL))
def test_plain_data_goes_on_to_be_read(data: Any, protocol: int) -> None:
    text = encoded(pickle.dumps([data, data], protocol))
    assert pickle.loads(base64.b64decode(_plain_pickle.written(_plain_pickle.read(text)))) == [
        data,
        data,
    ]


def test_what_is_stored_is_made_anew(office_history: Json, tmp_path: Path) -> None:
    """Bytes after the end of a pickle, which DBOS would not look at, do not get there."""
    original = office_history["runs"]["office"]["steps"][0]["output"]
    in_the_output(office_history, encoded(base64.b64decode(original) + b"cos\nsystem\n."))
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    with launched(url):
        history.restore(office_history, url)
    with sa.create_engine(url).connect() as connection:
        rows = connection.execute(sa.text("SELECT output FROM operation_outputs"))
        assert original in rows.scalars().all()


# Wrong shapes ----------------------------------------------------------------------------

HALF = "\ud800"


def put(*path: Any) -> Callable[[Json], None]:
    """Puts the last of these where the others lead."""
    *way, last, value = path

    def change(saved: Any) -> None:
        for name in way:
            saved = saved[name]
        saved[last] = value

    return change


def without(*path: Any) -> Callable[[Json], None]:
    """Takes out what is where these lead."""
    *way, last = path

    def change(saved: Any) -> None:
        for name in way:
            saved = saved[name]
        del saved[last]

    return change


def twice(saved: Json) -> None:
    saved["runs"]["office"]["steps"].append(saved["runs"]["office"]["steps"][0])


def apart(saved: Json) -> None:
    del with_a_child(saved)["runs"]["office"]["steps"][0]["child_workflow_id"]
    saved["runs"]["office"]["steps"][0]["child_workflow_id"] = None


RUN = ("runs", "office")
STEP = (*RUN, "steps", 0)
OURS = (*RUN, "steps", 2)

WRONG: dict[str, tuple[Callable[[Json], None], str]] = {
    "a key of the history": (put("more", 1), "The history: can't have 'more'"),
    "no runs": (without("runs"), "The history: lacks runs"),
    "runs": (put("runs", []), "The history: runs has to be an object"),
    "a run": (put("runs", "office", None), "Run 'office': has to be an object, not NoneType"),
    "its id": (put("run_id", "other"), "The history: there is no run 'other' in it"),
    "versions": (put("versions", "dbos", 3), "The history: the version of dbos has to be text"),
    "a key of a run": (put(*RUN, "attributes", {}), "Run 'office': can't have 'attributes'"),
    "a run to recover": (
        put(*RUN, "status", "PENDING"),
        "Run 'office': has not ended: its status is 'PENDING'",
    ),
    "a status": (put(*RUN, "status", []), "Run 'office': has not ended: its status is []"),
    "inputs gone": (without(*RUN, "inputs"), "Run 'office': lacks inputs"),
    "no inputs": (put(*RUN, "inputs", None), "Run 'office': inputs are missing"),
    "inputs of a list": (
        put(*RUN, "inputs", encoded(pickle.dumps([1]))),
        "Run 'office', inputs: has to be an object, not list",
    ),
    "inputs of text": (
        put(*RUN, "inputs", encoded(pickle.dumps({"args": "ab", "kwargs": {}}))),
        "Run 'office': the inputs' args can't be str",
    ),
    "a name": (put(*RUN, "name", 7), "Run 'office': name has to be text, not int"),
    "steps": (put(*RUN, "steps", {}), "Run 'office': steps has to be a list"),
    "a step": (put(*STEP, []), "Run 'office', row 1 of its steps: has to be an object, not list"),
    "a key of a step": (
        put(*STEP, "attributes", {}),
        "Run 'office', row 1 of its steps: can't have 'attributes'",
    ),
    "a number": (
        put(*STEP, "function_id", True),
        "Run 'office', row 1 of its steps: function_id has to be a number up to 10000000, not True",
    ),
    "a large number": (put(*STEP, "function_id", 2**31), "up to 10000000, not 2147483648"),
    "numbers": (twice, "Run 'office': two steps have the same function_id"),
    "a step's name": (put(*STEP, "function_name", None), "function_name has to be text"),
    "a long name": (put(*STEP, "function_name", "x" * 10_001), "has more than 10000 characters"),
    "half a character": (put(*STEP, "function_name", HALF), "has half a character in it"),
    "a NUL": (put(*STEP, "function_name", "a\0b"), "function_name has a NUL in it"),
    "an output": (
        put(*STEP, "output", ["text"]),
        "Run 'office', step 1 (histories.stamp): output has to be text, not list",
    ),
    "an output and an error": (put(*STEP, "error", "{}"), "has an output and an error"),
    "no JSON": (put(*OURS, "output", "{"), "its output is not JSON"),
    "deep JSON": (put(*OURS, "output", "[" * 100_000), "its output is not JSON"),
    "a label": (
        put(*STEP, "serialization", "custom_serializer"),
        "Run 'office', step 1 (histories.stamp): its serialization is 'custom_serializer'. It has "
        "to be 'portable_json', or 'py_pickle' for plain data.",
    ),
    "no label": (put(*STEP, "serialization", None), "its serialization is None"),
    "a label of a run": (put(*RUN, "serialization", "pickle"), "Run 'office': its serialization"),
    "a child": (
        put(*STEP, "child_workflow_id", "elsewhere"),
        "Run 'office', step 1 (histories.stamp): there is no run 'elsewhere' in the history",
    ),
    "a run of nobody": (apart, "Run 'child': was not started by 'office'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_shape(what: str, office_history: Json) -> None:
    change, message = WRONG[what]
    change(office_history)
    with pytest.raises(ValueError, match=re.escape(message)):
        history.restore(office_history, "sqlite:///nowhere.sqlite")


def test_an_error_has_the_shape_of_one(office_history: Json) -> None:
    step = office_history["runs"]["office"]["steps"][2]
    for stored, message in (
        ("[]", "has to be an object, not list"),
        ('{"name": "ValueError"}', "lacks message"),
        ('{"name": "ValueError", "message": 1}', "the error's message has to be text"),
    ):
        step.update(output=None, error=stored)
        with pytest.raises(ValueError, match=message):
            history.restore(office_history, "sqlite:///nowhere.sqlite")


def test_more_than_fits(office_history: Json) -> None:
    saved = copy.deepcopy(office_history)
    saved["runs"]["office"]["steps"][2]["output"] = json.dumps("x" * (16 * 2**20))
    with pytest.raises(ValueError, match="output has more than 16777216 characters"):
        history.restore(saved, "sqlite:///nowhere.sqlite")
    steps = office_history["runs"]["office"]["steps"]
    office_history["runs"]["office"]["steps"] = steps * 10_000
    with pytest.raises(ValueError, match="Run 'office': has more than 100000 steps"):
        history.restore(office_history, "sqlite:///nowhere.sqlite")
    office_history["runs"] = dict.fromkeys(map(str, range(1_001)))
    with pytest.raises(ValueError, match="has more than 1000 runs"):
        history.restore(office_history, "sqlite:///nowhere.sqlite")


@pytest.mark.parametrize("given", [None, [], "office", 7])
def test_no_history_at_all(given: Any) -> None:
    with pytest.raises(ValueError, match="The history: has to be an object"):
        history.restore(given, "sqlite:///nowhere.sqlite")


@pytest.mark.crash
@pytest.mark.some_entries
def test_changed_histories_import_and_run_nothing() -> None:
    ran = python("-m", "histories.fuzz", folder=FOLDER.parents[1], timeout=280)
    assert ran.returncode == 0, ran.stderr
    counts = json.loads(ran.stdout)
    assert min(counts.values()) > how_many(10, 50)


# Saving ----------------------------------------------------------------------------------


@DBOS.step(name="histories.weigh")
def weigh(fail: bool) -> Any:
    if fail:
        raise KeyError("no scales")
    return Path("not plain data")


@DBOS.workflow(name="histories.weighing")
def weighing(fail: bool) -> str:
    try:
        return str(weigh(fail))
    except Exception as failure:
        return str(failure)


@pytest.mark.parametrize("fail", [False, True])
def test_what_could_not_be_restored_is_not_saved(fail: bool, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    with launched(url):
        with SetWorkflowID("weighing"):
            weighing(fail)
        message = r"Run 'weighing', step 1 \(histories.weigh\): its (output|error) is a pickle"
        with pytest.raises(ValueError, match=message):
            history.save(url, "weighing")


def test_with_the_serializer_that_the_message_names(tmp_path: Path) -> None:
    url, other = (f"sqlite:///{tmp_path}/{name}.sqlite" for name in ("one", "other"))
    with launched(url, serializer=DBOSPortableJSONSerializer()):
        with SetWorkflowID("weighing"):
            result = weighing(True)
        saved = history.save(url, "weighing")
    with launched(other):
        assert history.replayed(history.restore(saved, other)) == result
