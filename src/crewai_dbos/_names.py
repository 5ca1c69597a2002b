"""Names that are stored in users' databases.

Persisted compatibility data: a run recorded by an earlier version is looked up by these. A name is
never changed, nor used for something else, unless the old one is still read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

AGENT_WORKFLOW = "crewai_dbos.agent"
AGENT_WORKFLOW_ASYNC = "crewai_dbos.agent_async"
CREW_WORKFLOW = "crewai_dbos.crew"
CREW_WORKFLOW_ASYNC = "crewai_dbos.crew_async"
BATCH_WORKFLOW = "crewai_dbos.batch"
FLOW_WORKFLOW = "crewai_dbos.flow"
FLOW_WORKFLOW_ASYNC = "crewai_dbos.flow_async"
WORKFLOWS = (
    AGENT_WORKFLOW,
    AGENT_WORKFLOW_ASYNC,
    CREW_WORKFLOW,
    CREW_WORKFLOW_ASYNC,
    FLOW_WORKFLOW,
    FLOW_WORKFLOW_ASYNC,
)

ENTRY_VERSION = 1
INPUT_VERSION = 1

LLM = "llm"
FUNCTION_CALLING_LLM = "function_calling_llm"
PLANNING_LLM = "planning_llm"
GUARDRAIL_LLM = "guardrail.llm"
MEMORY_LLM = "memory.llm"
MEMORY_RECALL = "memory.recall"
MEMORY_EXTRACT = "memory.extract"
MEMORY_SAVE = "memory.save"
MEMORY_SEARCH = "memory.search"
KNOWLEDGE_QUERY = "knowledge.query"
KNOWLEDGE_LOAD = "knowledge.load"
CONVERSION = "conversion"
PLANNER_LLM = "planner.llm"
MCP_DISCOVERY = "mcp.tools"
CACHE = "cache"
DEFINITION = "definition"
BEFORE_KICKOFF = "before_kickoff"
AFTER_KICKOFF = "after_kickoff"
CALLBACK = "callback"
STEP_CALLBACK = "step_callback"
GUARDRAIL = "guardrail"
CONDITION = "condition"
OUTPUT_FILE = "output_file"
LOG = "log"
DATE = "date"
STATE = "state"
SESSION = "session"
OUTCOME = "outcome"
FEEDBACK = "feedback"
REVIEW = "review"
REQUEST = "request"
ASK = "ask"
PERSIST = "persist"
NOW = "now"
UUID4 = "uuid4"
RANDOM = "random"
ORDER = "order"
END = "end"
GIVEN_UP = "given_up"
SUMMARY = "summary"
TOKEN_COUNT = "tokens"
PIN = "dbos"

ATTRIBUTE = "crewai_dbos"
"""Key of the workflow attribute in which a run says why it is not going on."""


_AT_THE_ROOT = (LLM, FUNCTION_CALLING_LLM, TOKEN_COUNT, CONVERSION)


def is_ours(step_name: str) -> bool:
    """Whether the journal writes step rows of this name: paths, and requests of a bare LLM."""
    what = step_name.rpartition("#")[0]
    return "/" in step_name or without_digest(what) in _AT_THE_ROOT


def without_digest(what: str) -> str:
    """The name of a call, less the digest of its content if it is named by that."""
    return re.sub(r"\([0-9a-f]{8}\)$", "", what)


def part(text: str) -> str:
    """`text` as one component of a path: no slash, no hash, nothing that moves a cursor.

    Nor anything that is no text, as half of a surrogate pair.
    """
    unsafe = r"[%/#\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
    return re.sub(unsafe, lambda m: f"%{ord(m.group()):02X}", text)


def agent(agent_name: str) -> str:
    return f"agent:{part(agent_name)}"


def crew(crew_name: str) -> str:
    return f"crew:{part(crew_name)}"


def flow(flow_name: str) -> str:
    return f"flow:{part(flow_name)}"


def method(method_name: str) -> str:
    """A method of a flow; which time it is executed stands behind it."""
    return f"method:{part(method_name)}"


def step(qualname: str) -> str:
    """A function of the user's that is recorded with `crewai_dbos.step`."""
    return f"step:{part(qualname)}"


def session(flow_name: str, session_id: str) -> str:
    """What the workflow ids of the turns of a conversation begin with."""
    return f"{part(flow_name)}/{part(session_id)}/"


def item(batch_id: str, number: int) -> str:
    """The workflow id of the `number`-th run of a batch, counting from 1."""
    return f"{batch_id}/{number}"


def queue(crew_name: str, limits: Mapping[str, Any]) -> str:
    """The queue of the batches of a crew that have these limits in common."""
    return f"crewai_dbos.{crew_name}.{digest(limits)}"


def task(number: int, name: str | None) -> str:
    """The `number`-th task of a crew, counting from 1, with the name that the user gave it."""
    return f"task:{number}.{part(name)}" if name else f"task:{number}"


def tool(tool_name: str, arguments: Any) -> str:
    return f"tool:{part(tool_name)}({digest(arguments)})"


def around(tool_call: str) -> str:
    return f"around:{tool_call}"


def todo(step_number: int) -> str:
    return f"todo:{step_number}"


def event(event_type: str, content: Any = None) -> str:
    """`content` tells apart events that may come in any order, as those of parallel tool calls."""
    return f"event:{part(event_type)}" + ("" if content is None else f"({digest(content)})")


def handler(qualname: str) -> str:
    return f"handler:{part(qualname)}"


def in_background(name: str) -> bool:
    """Whether the entry `name` was made by work that its place does not wait for."""
    return f"/{MEMORY_SAVE}(" in name


def inside_save(name: str) -> bool:
    """Whether the entry `name` was made while a memory was saved.

    A save that was cut short finds other memories when it is done again, and asks for other calls.
    """
    return re.search(rf"/{re.escape(MEMORY_SAVE)}\([^/]*/", name) is not None


def numbered(path: str, what: str, occurrence: int) -> str:
    """The name of the `occurrence`-th `what` (1-based) under `path` ("" is the run itself)."""
    return f"{path}/{what}#{occurrence}" if path else f"{what}#{occurrence}"


def digest(value: Any) -> str:
    """Eight hex digits that stand for `value`; the same in every process."""
    try:
        text = json.dumps(_shape(value), sort_keys=True, ensure_ascii=True)
    except RecursionError:
        text = type(value).__qualname__
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _shape(value: Any) -> Any:
    """What stays the same of a value between processes, as JSON data: never its address."""
    if isinstance(value, int) and value.bit_length() > _LONG:
        return hex(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, SimpleNamespace):
        return _mapping(vars(value))
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, (list, tuple, deque)):
        return [_shape(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_shape(item) for item in value), key=_text)
    if isinstance(value, type):
        return value.__qualname__
    if isinstance(value, (bytes, bytearray)):
        return hashlib.sha256(value).hexdigest()
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        try:
            return _shape(dump())
        except Exception:
            return type(value).__qualname__
    if is_dataclass(value):
        return {f.name: _shape(getattr(value, f.name)) for f in fields(value)}
    return _object(value)


# Python does not write integers of more than 4300 digits in decimal.
_LONG = 10_000


def _mapping(value: Mapping[Any, Any]) -> Any:
    if all(isinstance(key, str) for key in value):
        return {str(key): _shape(item) for key, item in value.items()}
    return sorted(([_shape(key), _shape(item)] for key, item in value.items()), key=_text)


def _object(value: Any) -> Any:
    """A date, a URL, a number of some library: its text, if its class has one of its own."""
    cls = type(value)
    if "__str__" not in _defined(cls) and "__repr__" not in _defined(cls):
        return cls.__qualname__
    try:
        return [cls.__qualname__, re.sub(r"\b0x[0-9a-fA-F]+", "0x", str(value))]
    except Exception:
        return cls.__qualname__


def _defined(cls: type) -> set[str]:
    return {name for base in cls.__mro__[:-1] for name in vars(base)}


def _text(shape: Any) -> str:
    return json.dumps(shape, sort_keys=True)
