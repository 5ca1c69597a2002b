"""The reference of the documentation site: pages of docstrings, and links to them.

mkdocs calls what begins with ``on_``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

SOURCE = Path(__file__).parents[2] / "src"

ERRORS = "When each is raised, and what to do: [Errors](../errors.md)."

REFERENCE = {
    "definitions": (
        "Agents, crews and flows",
        "crewai_dbos",
        "",
        (
            *("DBOSAgent", "DBOSCrew", "DBOSFlow", "DBOSLLM", "RunHandle", "StepConfig"),
            *("DBOSAgentExecutor", "allow_unrecorded", "refuse_unrecorded"),
        ),
    ),
    "inside-runs": (
        "Inside a run",
        "crewai_dbos",
        "",
        (
            *("step", "now", "uuid4", "random", "idempotency_key"),
            *("store_context", "store_hidden", "allow_modules"),
        ),
    ),
    "people-and-budgets": (
        "People and budgets",
        "crewai_dbos",
        "",
        ("People", "ToolRequest", "ask", "ask_async", "Budget", "SetBudget"),
    ),
    "workers": ("Workers", "crewai_dbos", "", ("Worker",)),
    "control": ("Control", "crewai_dbos.control", "", ("Control",)),
    "errors": ("Classes of errors", "crewai_dbos.errors", ERRORS, ()),
    "http": ("HTTP", "crewai_dbos.http", "", ()),
    "doctor": ("Doctor", "crewai_dbos.doctor", "", ()),
    "encryption": ("Encryption", "crewai_dbos.encryption", "", ()),
    "testing": ("Testing", "crewai_dbos.testing", "", ("ModelServer",)),
    "crash-tests": ("Crash tests", "crewai_dbos.testing.crash", "", ("CrashTest",)),
    "histories": ("Recorded histories", "crewai_dbos.testing.history", "", ()),
}
"""Pages of the reference: title, module, what goes before, and the names that come first.

Of `crewai_dbos` itself a page has these names only.
"""

_NAME = re.compile(
    r"^ *```.*?^ *```$|\[[^]]*\]\([^)]*\)|^#[^\n]*|`(?P<name>[\w.]+)`", re.DOTALL | re.MULTILINE
)
"""A name that stands alone: not in a block, a link or a heading."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference."""
    for name, about in REFERENCE.items():
        files.append(File.generated(config, f"reference/{name}.md", content=reference(*about)))
    files.append(File.generated(config, "reference/commands.md", content=commands()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have the first mention of each public name lead to where it is documented."""
    left = {} if page.file.src_uri.startswith("reference/") else dict(documented())

    def of(match: re.Match[str]) -> str:
        place = left.pop(match["name"], None) if match["name"] else None
        return match[0] if place is None else f"[{match[0]}][{place}]"

    return _NAME.sub(of, markdown)


@cache
def documented() -> tuple[tuple[str, str], ...]:
    """What a page calls by a name that nothing else has, and where the reference has it."""
    found = {"Control": "crewai_dbos.control.Control"}
    for module in ("crewai_dbos", "crewai_dbos.errors"):
        for name, home in public(module):
            found[f"crewai_dbos.{name}"] = f"{home}.{name}"
            if name[0].isupper():
                found[name] = f"{home}.{name}"
    return tuple(found.items())


def reference(title: str, module: str, before: str, first: Sequence[str]) -> str:
    """A page with the docstring of each public name of `module`."""
    homes = dict(public(module))
    names = first if module == "crewai_dbos" else dict.fromkeys((*first, *homes))
    found = [f"# {title}", f"From `{module}`. {before}".strip()]
    for name, home in ((name, homes[name]) for name in names):
        called = f"{module}.{name}"
        found.append(f'<a id="{called}"></a>')
        found.append(f"::: {home}.{name}\n    options:\n      heading: {called}")
    return "\n\n".join(found) + "\n"


def public(module: str) -> list[tuple[str, str]]:
    """The public names of a module, and the module that each is defined in."""
    source = SOURCE / module.replace(".", "/")
    if module == "crewai_dbos":
        source = source / "_public.py"
    else:
        source = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    homes = {
        alias.asname or alias.name: _absolute(node, module)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    if module == "crewai_dbos":
        return sorted((name, home) for name, home in homes.items() if name != "annotations")
    names = [name for node in tree.body if isinstance(node, ast.Assign) for name in _all(node)]
    names = names or [
        node.name
        for node in tree.body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_")
    ]
    return [(name, homes.get(name, module)) for name in names]


def _all(node: ast.Assign) -> list[str]:
    named = any(getattr(target, "id", "") == "__all__" for target in node.targets)
    return list(ast.literal_eval(node.value)) if named else []


def _absolute(node: ast.ImportFrom, module: str) -> str:
    return f"{module}.{node.module}" if node.level else str(node.module)


def commands() -> str:
    """The page of the command line, as typer makes it."""
    import typer.main
    from typer.cli import get_docs_for_click

    from crewai_dbos.cli import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="crewai-dbos")
    text = get_docs_for_click(obj=command, ctx=context, name="crewai-dbos")
    return _with_links(text).replace("# `crewai-dbos`", "# Command line", 1)


def _with_links(text: str) -> str:
    """Lists of commands as links to their sections: what typer has there is cut short."""
    lines, of, in_list = [], "", False
    for line in text.splitlines():
        heading = re.match(r"#+ `(.*)`$", line)
        if heading:
            of, in_list = heading[1], False
        in_list = in_list or line == "**Commands**:"
        listed = re.match(r"\* `([\w-]+)`", line) if in_list else None
        if listed:
            line = f"* [`{listed[1]}`](#{of.replace(' ', '-')}-{listed[1]})"
        lines.append(line)
    return "\n".join(lines) + "\n"
