"""What a history may hold: data, and no more, as it is a file that anybody may have written."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from . import _plain_pickle

_MOST_RUNS = 1_000
_MOST_STEPS = 100_000
_LARGEST_NUMBER = 10_000_000
_LONGEST_NAME = 10_000
_LONGEST_VALUE = 16 * 2**20

_HISTORY = ("versions", "run_id", "runs")
RUN = ("name", "serialization", "class_name", "config_name")
ENDED = ("status", "output", "error")
"""Of a run that another one started: how it ended, for those who wait for it."""
STEP = ("function_id", "function_name", "output", "error", "serialization", "child_workflow_id")

JSON, PICKLE = "portable_json", "py_pickle"

_FIX = (
    "Let the step return None, bools, numbers, text, bytes, lists, tuples, dicts or sets, or have "
    'DBOS store JSON: DBOS(config={"serializer": DBOSPortableJSONSerializer(), ...}). Then save '
    "the run again."
)

Row = dict[str, Any]


def checked(history: Any) -> Row:
    """The run id and the runs of a history, ready for a database.

    Pickles are made anew from the data in them, so that what DBOS reads is ours.

    Raises:
        ValueError: It is not what `save` makes. The message names the row, and says what to do.
    """
    _check_names("The history", history, _HISTORY, optional=("result",))
    _check("The history", isinstance(history["versions"], Mapping), "versions has to be an object")
    for package, version in history["versions"].items():
        _text("The history", "versions", package)
        _text("The history", f"the version of {package}", version)
    run_id = _text("The history", "run_id", history["run_id"])
    runs = history["runs"]
    _check("The history", isinstance(runs, Mapping), "runs has to be an object")
    _check("The history", len(runs) <= _MOST_RUNS, f"has more than {_MOST_RUNS} runs")
    _check("The history", run_id in runs, f"there is no run {run_id!r} in it")
    made = {_text("The history", "a run's id", each): _run(each, runs[each]) for each in runs}
    _check_children(run_id, made)
    return {"run_id": run_id, "runs": made}


def _run(run_id: str, saved: Any) -> Row:
    where = f"Run {run_id!r}"
    _check_names(where, saved, (*RUN, "inputs", "steps"), optional=ENDED)
    run = {
        "status": saved.get("status", "SUCCESS"),
        "name": _text(where, "name", saved["name"]),
        "class_name": _text(where, "class_name", saved["class_name"], optional=True),
        "config_name": _text(where, "config_name", saved["config_name"], optional=True),
        "serialization": _label(where, saved["serialization"]),
    }
    _check(where, run["status"] in _OVER, f"has not ended: its status is {run['status']!r}")
    run.update(_outcome(where, run["serialization"], saved.get("output"), saved.get("error")))
    _check(where, saved["inputs"] is not None, "inputs are missing")
    inputs, text = _value(where, "input", run["serialization"], saved["inputs"])
    args, kwargs = ("args", "kwargs") if run["serialization"] == PICKLE else _JSON_INPUTS
    _check_names(f"{where}, inputs", inputs, (), optional=(args, kwargs))
    for name, kind in ((args, (list, tuple)), (kwargs, dict)):
        given = inputs.get(name)
        fine = isinstance(given, kind) or (given is None and run["serialization"] == JSON)
        _check(where, fine, f"the inputs' {name} can't be {type(given).__name__}")
    _check(where, isinstance(saved["steps"], list), "steps has to be a list")
    _check(where, len(saved["steps"]) <= _MOST_STEPS, f"has more than {_MOST_STEPS} steps")
    steps = [_step(where, at, step) for at, step in enumerate(saved["steps"], 1)]
    numbers = [step["function_id"] for step in steps]
    _check(where, len(set(numbers)) == len(numbers), "two steps have the same function_id")
    return {**run, "inputs": text, "steps": steps}


_JSON_INPUTS = ("positionalArgs", "namedArgs")
_OVER = ["SUCCESS", "ERROR", "CANCELLED"]


def _step(run: str, at: int, saved: Any) -> Row:
    where = f"{run}, row {at} of its steps"
    _check_names(where, saved, STEP)
    number = saved["function_id"]
    whole = isinstance(number, int) and not isinstance(number, bool)
    fine = whole and 0 <= number <= _LARGEST_NUMBER
    _check(where, fine, f"function_id has to be a number up to {_LARGEST_NUMBER}, not {number!r}")
    name = _text(where, "function_name", saved["function_name"])
    where = f"{run}, step {number} ({name})"
    label, child = saved["serialization"], saved["child_workflow_id"]
    # DBOS leaves it out where there is nothing to read.
    if label is not None or saved["output"] is not None or saved["error"] is not None:
        label = _label(where, label)
    return {
        "function_id": number,
        "function_name": name,
        "serialization": label,
        "child_workflow_id": _text(where, "child_workflow_id", child, optional=True),
        **_outcome(where, label, saved["output"], saved["error"]),
    }


def _outcome(where: str, label: str, output: Any, error: Any) -> Row:
    """What was returned or raised, if anything."""
    _check(where, output is None or error is None, "has an output and an error")
    if output is not None:
        _, output = _value(where, "output", label, output)
    if error is not None:
        # An exception, which no plain data is.
        _check(where, label == JSON, f"its error is a pickle. {_FIX}")
        data, error = _value(where, "error", JSON, error)
        _check_names(f"{where}, error", data, ("name", "message"), optional=("code", "data"))
        for part in ("name", "message"):
            _check(where, isinstance(data[part], str), f"the error's {part} has to be text")
    return {"output": output, "error": error}


def _check_children(run_id: str, runs: Mapping[str, Row]) -> None:
    """The runs are `run_id` and those that were started from it, and theirs, and no others."""
    reached, waiting = set[str](), [run_id]
    while waiting:
        current = waiting.pop()
        if current in reached:
            continue
        reached.add(current)
        for step in runs[current]["steps"]:
            child = step["child_workflow_id"]
            if child is None:
                continue
            where = f"Run {current!r}, step {step['function_id']} ({step['function_name']})"
            _check(where, child in runs, f"there is no run {child!r} in the history")
            waiting.append(child)
    for other in runs:
        _check(f"Run {other!r}", other in reached, f"was not started by {run_id!r}")


def _value(where: str, what: str, label: str, text: Any) -> tuple[Any, str]:
    """The data in a stored text, and the text to store."""
    text = _text(where, what, text, longest=_LONGEST_VALUE)
    if label == JSON:
        try:
            return json.loads(text), text
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: its {what} is not JSON: {error}") from None
    try:
        data = _plain_pickle.read(text)
        return data, _plain_pickle.written(data)
    except ValueError as error:
        raise ValueError(
            f"{where}: its {what} is a pickle that is not plain data ({error}), and reading it "
            f"would run what it names. {_FIX}"
        ) from None


def _label(where: str, label: Any) -> str:
    fine = isinstance(label, str) and label in (JSON, PICKLE)
    known = f"{JSON!r}, or {PICKLE!r} for plain data"
    _check(where, fine, f"its serialization is {label!r}. It has to be {known}. {_FIX}")
    return str(label)


def _text(
    where: str, what: str, value: Any, *, longest: int = _LONGEST_NAME, optional: bool = False
) -> Any:
    if optional and value is None:
        return None
    _check(where, isinstance(value, str), f"{what} has to be text, not {type(value).__name__}")
    _check(where, len(value) <= longest, f"{what} has more than {longest} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where}: {what} has half a character in it") from None
    _check(where, "\0" not in value, f"{what} has a NUL in it")
    return value


def _check_names(
    where: str, value: Any, required: Collection[str], *, optional: Collection[str] = ()
) -> None:
    _check(where, isinstance(value, Mapping), f"has to be an object, not {type(value).__name__}")
    unknown = sorted(repr(name) for name in value if name not in (*required, *optional))
    _check(where, not unknown, f"can't have {', '.join(unknown[:5])}")
    missing = [name for name in required if name not in value]
    _check(where, not missing, f"lacks {', '.join(missing)}")


def _check(where: str, fine: bool, what: str) -> None:
    if not fine:
        raise ValueError(f"{where}: {what}")
