"""The module of the program itself, which is ``__main__`` in one process and ``app`` in another.

Classes of it are stored under the name by which other processes import it, if it has one.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

_NAMES = ("__main__", "__mp_main__")  # the second in a process that multiprocessing has spawned

_found: tuple[ModuleType, str | None] | None = None


def is_main(name: str) -> bool:
    """Whether a module of this name is the program itself."""
    return name in _NAMES


def stored_name(module: str) -> str:
    """What stands for the module called `module` in what is stored."""
    return (_only_name() or "__main__") if is_main(module) else module


def loaded(name: str) -> ModuleType | None:
    """The module that is stored as `name`, if it is imported here."""
    main = sys.modules.get("__main__")
    return main if main is not None and name == _only_name() else sys.modules.get(name)


def _only_name() -> str | None:
    """The real name, unless a second copy of the program is imported under it."""
    name = real_name()
    main = sys.modules.get("__main__")
    return name if name is not None and sys.modules.get(name, main) is main else None


def real_name() -> str | None:
    """The name by which other processes import the program; None if there is none."""
    global _found
    main = sys.modules.get("__main__")
    if main is None:
        return None
    if _found is None or _found[0] is not main:
        _found = (main, _name_of(main))
    return _found[1]


def _name_of(main: ModuleType) -> str | None:
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return None if is_main(spec.name) else str(spec.name)
    file = getattr(main, "__file__", None)
    name = _on_the_path(os.path.realpath(file)) if file else None
    other = sys.modules.get(name or "")
    same = other is None or _is_same_file(other, main)
    return name if same else None


def _on_the_path(file: str) -> str | None:
    """The name under which the file is found in ``sys.path``."""
    folder, base = os.path.split(file)
    stem, ending = os.path.splitext(base)
    if ending != ".py":
        return None  # no import statement finds it
    places = {os.path.realpath(place) for place in sys.path}
    parts, root = [stem], folder
    while os.path.exists(os.path.join(root, "__init__.py")):
        root, package = os.path.split(root)
        parts.insert(0, package)
    for names, place in ((parts, root), ([stem], folder)):
        if place in places and all(name.isidentifier() for name in names):
            return ".".join(names)
    return None


def _is_same_file(module: ModuleType, other: ModuleType) -> bool:
    files = [getattr(each, "__file__", None) for each in (module, other)]
    return None not in files and len({os.path.realpath(str(file)) for file in files}) == 1
