"""crewAI work that survives the process, on DBOS Transact.

Importing this package registers its workflows with DBOS. crewAI itself, which takes seconds to
import, is loaded with the first name that needs it.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from crewai_dbos import _patches, _sqlite_clock, errors
from crewai_dbos._runs import workflows as _workflows  # noqa: F401
from crewai_dbos._secrets import known as _known
from crewai_dbos.errors import *  # noqa: F403

if TYPE_CHECKING:
    from crewai_dbos._public import *  # noqa: F403

_patches.apply(_patches.IMPORT)
_sqlite_clock.install()
_known.keep_out_of_the_log()


def _read(source: str) -> dict[str, str]:
    """The modules that the names come from which `source` imports."""
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom)]
    return {name.name: node.module or "" for node in imports for name in node.names}


_HOME = _read((pkgutil.get_data(__name__, "_public.py") or b"").decode())

__all__ = [*errors.__all__, *_HOME]


if not TYPE_CHECKING:  # which would take it for a sign that there is every name

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_HOME[name]), name)
