"""Pages of the documentation site that are not in docs/; mkdocs calls what begins with ``on_``.

Some are in the root of the project, and the reference is made of docstrings. Links in any page are
those that work on GitHub: here they become links between pages of the site, or into the repository
where they lead to something that is no page.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

FROM_THE_ROOT = {
    "ARCHITECTURE.md": "internals/architecture.md",
    "CONTRIBUTING.md": "internals/contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""Pages of the project by their place on the site."""

ERRORS = "When each is raised, and what to do: [Errors](../errors.md)."

REFERENCE = {
    "definitions": (
        "Agents, crews and flows",
        "crewai_dbos",
        "",
        (
            *("DBOSAgent", "DBOSCrew", "DBOSFlow", "DBOSLLM", "RunHandle", "StepConfig"),
            *("DBOSAgentExecutor", "allow_unrecorded"),
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

_LINK = re.compile(r"(?<=\]\()([^)\s#]*)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, place in FROM_THE_ROOT.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    for name, about in REFERENCE.items():
        files.append(File.generated(config, f"reference/{name}.md", content=reference(*about)))
    files.append(File.generated(config, "reference/commands.md", content=commands()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links lead where they lead on GitHub."""
    own = source_of(page.file.src_uri)
    if own is None:
        return markdown
    folder = posixpath.dirname(own)

    def of(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        if not path or ":" in path:
            return match[0]
        target = posixpath.normpath(posixpath.join(folder, path))
        place = place_of(target)
        if files.get_file_from_path(place) is not None:
            return posixpath.relpath(place, posixpath.dirname(page.file.src_uri)) + anchor
        if (ROOT / target).exists():
            return f"{config.extra['repository']}/blob/main/{target}{anchor}"
        return match[0]

    return outside_of_blocks(markdown, lambda text: _LINK.sub(of, text))


def source_of(place: str) -> str | None:
    """Where a page of the site is in the project; None if it is made here."""
    if place.startswith("reference/"):
        return None
    sources = {each: source for source, each in FROM_THE_ROOT.items()}
    return sources.get(place, f"docs/{place}")


def place_of(source: str) -> str:
    """The place on the site of a file of the project."""
    return FROM_THE_ROOT.get(source, source.removeprefix("docs/"))


def outside_of_blocks(markdown: str, change: Any) -> str:
    """`markdown` with what stands outside of fenced blocks changed."""
    parts = re.split(r"(^ *```.*?^ *```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if at % 2 else change(part) for at, part in enumerate(parts))


# The reference -------------------------------------------------------------------------------


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
    source = ROOT / "src" / module.replace(".", "/")
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
