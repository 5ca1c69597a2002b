"""Names that are stored in users' databases.

Persisted compatibility data: a run recorded by an earlier version is looked up by these. A name is
never changed, nor used for something else, unless the old one is still read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from crewai_dbos._stored.digest import digests, keyed, short

AGENT_WORKFLOW = "crewai_dbos.agent"
AGENT_WORKFLOW_ASYNC = "crewai_dbos.agent_async"
CREW_WORKFLOW = "crewai_dbos.crew"
CREW_WORKFLOW_ASYNC = "crewai_dbos.crew_async"
BATCH_WORKFLOW = "crewai_dbos.batch"
FLOW_WORKFLOW = "crewai_dbos.flow"
FLOW_WORKFLOW_ASYNC = "crewai_dbos.flow_async"
WORKFLOWS_OF = {
    "agent": (AGENT_WORKFLOW, AGENT_WORKFLOW_ASYNC),
    "crew": (CREW_WORKFLOW, CREW_WORKFLOW_ASYNC),
    "flow": (FLOW_WORKFLOW, FLOW_WORKFLOW_ASYNC),
}
"""By what they carry out a definition of."""
WORKFLOWS = tuple(name for names in WORKFLOWS_OF.values() for name in names)

ENTRY_VERSION = 2
ENTRY_VERSIONS = (1, ENTRY_VERSION)
"""Those that can be read. With 2, names have longer digests, and those of requests a salt."""

INPUT_VERSION = 2
"""Of work orders. With 2, a field without forms is plain JSON, whatever is in it."""

LLM = "llm"
FUNCTION_CALLING_LLM = "function_calling_llm"
PLANNING_LLM = "planning_llm"
GUARDRAIL_LLM = "guardrail.llm"
MEMORY_LLM = "memory.llm"
MEMORY_RECALL = "memory.recall"
MEMORY_EXTRACT = "memory.extract"
MEMORY_SAVE = "memory.save"
MEMORY_SEARCH = "memory.search"
MEMORY_FORGET = "memory.forget"
MEMORY_UPDATE = "memory.update"
MEMORY_RESET = "memory.reset"
MEMORY_RESET_ALL = "memory.reset_all"
MEMORY_LIST = "memory.list_records"
MEMORY_SCOPES = "memory.list_scopes"
MEMORY_CATEGORIES = "memory.list_categories"
MEMORY_INFO = "memory.info"
MEMORY_TREE = "memory.tree"
KNOWLEDGE_QUERY = "knowledge.query"
KNOWLEDGE_LOAD = "knowledge.load"
CONVERSION = "conversion"
PLANNER_LLM = "planner.llm"
MCP_DISCOVERY = "mcp.tools"
MCP_NAMES = "mcp.names"
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
METHOD_END = "outcome"
FEEDBACK = "feedback"
REVIEW = "review"
REQUEST = "request"
ASK = "ask"
APPROVAL = "approval"
BUDGET = "budget"
PERSIST = "persist"
NOW = "now"
UUID4 = "uuid4"
RANDOM = "random"
WORK_ORDER = "order"
END = "end"
ABANDONED = "given_up"
SUMMARY = "summary"
TOKEN_COUNT = "tokens"
PIN = "dbos"
EDITED = "edited"

ATTRIBUTE = "crewai_dbos"
"""Key of the workflow attribute in which a run says why it is not going on."""

TASK_ATTRIBUTE = "crewai_dbos.task"
"""Key of the workflow attribute with the id of the task that an agent was given."""
BUDGET_ATTRIBUTE = "crewai_dbos_budget"
"""Key of the one in which a person has raised the limits of a run, by the place of the budget."""
QUEUE = "queue"
"""Of what is in there: the queue that a run was taken from which has stopped."""
CANCELLED = "cancelled"
"""Of what is in there: by whom the run was cancelled, why, when, and from what queue."""
STOPPED_BEFORE = "stopped_before"
"""Of what is in there: why a run that was cancelled had stopped before."""
FORK_ATTRIBUTE = "crewai_dbos_fork"
"""Key of the workflow attribute that says of a fork by place who has made it, where, and of what.

``{"of": run id, "by": "ann", "at": "task:write", "edited": [names of entries], "ms": when}``
Several places are a list.
"""
RUN_ATTRIBUTE = "crewai_dbos.run"
"""Key of the one that says what it is a run of: ``{"definition": "research", "kind": "crew"}``."""
MOVED_ATTRIBUTE = "crewai_dbos.moved"
"""Key of the one that says from which application version a person has moved it to which.

``{"from": "1", "to": "2", "by": "ann", "ms": when}``
"""
HANDED_ON_ATTRIBUTE = "crewai_dbos.handed_on"
"""Key of the one that says from which worker, which was gone, others have taken it over last.

``{"from": executor id, "ms": when}``
"""
BY_NAME = "by_name"
"""Key in a worker's lease: ``crew:research``, what may be kicked off by others than its code."""
SERIALIZER = "serializer"
"""Key in a worker's lease: the name of the serializer that its application encrypts with."""
QUEUES = "queues"
"""Key in a worker's lease: the queues that it takes runs from, if not from all."""


_AT_THE_ROOT = (LLM, FUNCTION_CALLING_LLM, TOKEN_COUNT, CONVERSION)


def is_ours(step_name: str) -> bool:
    """Whether the journal writes step rows of this name: paths, and requests of a bare LLM."""
    what = step_name.rpartition("#")[0]
    return "/" in step_name or without_digest(what) in _AT_THE_ROOT


def without_digest(what: str) -> str:
    """The name of a call, less the digest of its content if it is named by that."""
    return re.sub(r"\((?:[0-9a-f]{8}|[0-9a-f]{32})\)$", "", what)


def by_content(what: str, content: Any) -> str:
    """`what`, named by a digest of its content, which the record writes as its run does."""
    return by_digests(what, *digests(content))


def by_digests(what: str, digested: str, before: str) -> str:
    """As `by_content`.

    Args:
        digested: The digest of the content.
        before: The eight digits that stand for it in a run of version 1.
    """
    return f"{what}(\0{digested}{before})"


def stored_name(what: str, version: int, key: bytes | None = None) -> str:
    """`what` as it is stored in a run whose entries have this version.

    Args:
        key: Without it nobody can tell from a digest what the content is, where that is encrypted.
    """

    def digits(match: re.Match[str]) -> str:
        if version == 1:
            return match[2]
        return keyed(match[1], key)[:32] if key is not None else match[1][:32]

    return _BY_CONTENT.sub(digits, what) if "\0" in what else what


# No part of a path has a NUL in it.
_BY_CONTENT = re.compile("\0([0-9a-f]{64})([0-9a-f]{8})")


def escaped(text: str) -> str:
    """`text` as one component of a path: no slash, no hash, nothing that moves a cursor.

    Nor anything that is no text, as half of a surrogate pair.
    """
    unsafe = r"[%/#\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
    return re.sub(unsafe, lambda m: f"%{ord(m.group()):02X}", text)


def agent(agent_name: str) -> str:
    return f"agent:{escaped(agent_name)}"


def crew(crew_name: str) -> str:
    return f"crew:{escaped(crew_name)}"


def flow(flow_name: str) -> str:
    return f"flow:{escaped(flow_name)}"


def is_joined(path: str) -> bool:
    """Whether an agent, a crew or a flow has its place somewhere in `path`."""
    return re.search(r"(?:^|/)(?:agent|crew|flow):", path) is not None


def method(method_name: str) -> str:
    """A method of a flow; which time it is executed stands behind it."""
    return f"method:{escaped(method_name)}"


def step(qualname: str) -> str:
    """A function of the user's that is recorded with `crewai_dbos.step`."""
    return f"step:{escaped(qualname)}"


def session(flow_name: str, session_id: str) -> str:
    """What the workflow ids of the turns of a conversation begin with."""
    return f"{escaped(flow_name)}/{escaped(session_id)}/"


def session_of(run_id: str) -> str | None:
    """The same of the id of a turn; None if it can be that of none."""
    begin, _, number = run_id.rpartition("/")
    return f"{begin}/" if number.isdigit() and begin.count("/") == 1 else None


def resume_queue(application: str | None) -> str:
    """What the runs of an application are taken from that have waited for a person."""
    return f"crewai_dbos.resume.{application}" if application else "crewai_dbos.resume"


def item(batch_id: str, number: int) -> str:
    """The workflow id of the `number`-th run of a batch, counting from 1."""
    return f"{batch_id}/{number}"


def queue(crew_name: str, limits: Mapping[str, Any]) -> str:
    """The queue of the batches of a crew that have these limits in common."""
    return f"crewai_dbos.{crew_name}.{short(limits)}"


def task(number: int, name: str | None) -> str:
    """The `number`-th task of a crew, counting from 1, with the name that the user gave it."""
    return f"task:{number}.{escaped(name)}" if name else f"task:{number}"


def tool(tool_name: str, arguments: Any) -> str:
    return by_content(f"tool:{escaped(tool_name)}", arguments)


def approval(tool_call: str) -> str:
    """What a person says before a tool is called."""
    return f"{APPROVAL}:{tool_call}"


def asked(tool_call: str) -> str:
    """That a person is to be asked about a tool call, whatever is decided about others."""
    return f"asked:{tool_call}"


def around(tool_call: str) -> str:
    return f"around:{tool_call}"


def todo(step_number: int) -> str:
    return f"todo:{step_number}"


def event(event_type: str, content: Any = None) -> str:
    """`content` tells apart events that may come in any order, as those of parallel tool calls."""
    what = f"event:{escaped(event_type)}"
    return what if content is None else by_content(what, content)


def handler(qualname: str) -> str:
    return f"handler:{escaped(qualname)}"


def in_background(name: str) -> bool:
    """Whether the entry `name` was made by work that its place does not wait for."""
    return f"/{MEMORY_SAVE}(" in name


def inside_save(name: str) -> bool:
    """Whether the entry `name` was made while a memory was saved.

    A save that was cut short finds other memories when it is done again, and asks for other calls.
    """
    return re.search(rf"/{re.escape(MEMORY_SAVE)}\([^/]*/", name) is not None


def is_mark(name: str) -> bool:
    """Whether the entry `name` says that a call or work was abandoned by its caller."""
    return name.rpartition("/")[2].rpartition("#")[0] == ABANDONED


def numbered(path: str, what: str, occurrence: int) -> str:
    """The name of the `occurrence`-th `what` (1-based) under `path` ("" is the run itself)."""
    return f"{path}/{what}#{occurrence}" if path else f"{what}#{occurrence}"
