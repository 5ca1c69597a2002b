"""What tests and offline demos need: a scripted model server and a log of side effects.

Nothing here imports crewai or dbos, so a server is up long before a crew could be.
"""

from ._app import Script
from .effects import Effect, EffectLog, report_effect
from .model_server import ModelServer, ScriptError
from .recording import RecordingError, record, recorded
from .replies import (
    ApiError,
    Delayed,
    Drop,
    Hang,
    Message,
    Reply,
    ToolCall,
    context_length_exceeded,
    delayed,
    drop,
    error,
    hang,
    react_answer,
    react_call,
    structured,
    text,
    tool_calls,
)
from .request import Request

__all__ = [
    "ApiError",
    "Delayed",
    "Drop",
    "Effect",
    "EffectLog",
    "Hang",
    "Message",
    "ModelServer",
    "RecordingError",
    "Reply",
    "Request",
    "Script",
    "ScriptError",
    "ToolCall",
    "context_length_exceeded",
    "delayed",
    "drop",
    "error",
    "hang",
    "react_answer",
    "react_call",
    "record",
    "recorded",
    "report_effect",
    "structured",
    "text",
    "tool_calls",
]
