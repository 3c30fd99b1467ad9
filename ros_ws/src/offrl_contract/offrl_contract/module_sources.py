"""The text of a module and of those that it imports, found without running any of them."""

import ast
import sysconfig
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

_STDLIB = sysconfig.get_path("stdlib")
_INSTALLED = {"site-packages", "dist-packages"}


def module_sources(name: str) -> dict[str, bytes]:
    """Return the text by module of one and of all that it imports.

    Packages that are installed are left out, but for its own, and so is what is imported by a name
    that is made at run time. A module that cannot be found has no text.
    """
    found: dict[str, bytes] = {}
    own = name.partition(".")[0]
    waiting, seen = [name], {""}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting.append(name.rpartition(".")[0])
        spec = _spec(name)
        file = Path(spec.origin) if spec and spec.origin and spec.has_location else None
        if spec is None or file is None or (name.partition(".")[0] != own and _installed(file)):
            continue
        found[name] = _text(file)
        package = name if spec.submodule_search_locations else name.rpartition(".")[0]
        waiting += _imported(found[name], package)
    return dict(sorted(found.items()))


def _installed(file: Path) -> bool:
    return file.is_relative_to(_STDLIB) or not _INSTALLED.isdisjoint(file.parts)


def _spec(name: str) -> ModuleSpec | None:
    """Return where a module is; None where it is not on the path."""
    head, _, _ = name.rpartition(".")
    if not head:
        return PathFinder.find_spec(name)
    above = _spec(head)
    places = above and above.submodule_search_locations
    return PathFinder.find_spec(name, places) if places else None


def _text(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _imported(text: bytes, package: str) -> Iterator[str]:
    """Yield what a text imports: modules, and names in modules that may be modules as well."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}".strip(".") for alias in node.names)
