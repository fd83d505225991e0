"""Digests of the source that something depends on, so that an edit re-runs exactly what it touches.

Static: what a module imports is found from the syntax trees, nothing is imported. Comments, docstrings
and formatting do not count.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

PACKAGE = "moerl"
INSTALLED = ("site-packages", "dist-packages")
"""Folders in which a package's neighbours have nothing to do with it."""

FileOf = Callable[[str], Path | None]
"""The file of a module by its dotted name; None if it is none of those that count."""


@dataclass(frozen=True)
class Source:
    """What a file of Python says."""

    path: Path
    text: str
    """Without comments, docstrings and formatting."""
    imports: tuple[str, ...]
    """Names of modules, or of things inside modules; relative ones begin with their dots."""


def closure_digest(root: str, source: Path | None = None) -> str:
    """First 16 hex digits of the SHA-256 over the normalised source of `root` and all it imports.

    Args:
        root: Dotted name of a module of this package.
        source: Folder that holds the package; default: where this one is installed.

    Raises ModuleNotFoundError if there is no such module.
    """
    digest = hashlib.sha256()
    for module, found in sorted(_own_closure(root, source or Path(__file__).parents[2]).items()):
        digest.update(f"{module}\n{found.text}\n".encode())
    return digest.hexdigest()[:16]


def import_closure(root: str, source: Path) -> set[str]:
    """Dotted names of `root`, the modules of this package that it imports however deep, and their packages.

    An import counts wherever it stands, inside a function or under `TYPE_CHECKING` too. The top
    package itself (version, no behaviour) is left out.
    """
    return set(_own_closure(root, source))


def module_digest(module: str, file: Path) -> str:
    """First 16 hex digits of the SHA-256 over the normalised source of `module_closure`; raises the same."""
    sources = module_closure(module, file)
    digest = hashlib.sha256(sources.pop(module).text.encode())
    for name, found in sorted(sources.items()):
        digest.update(f"\n{name}\n{found.text}".encode())
    return digest.hexdigest()[:16]


def module_closure(module: str, file: Path) -> dict[str, Source]:
    """By dotted name, the source of a user's module, what it imports however deep, and their packages.

    Of what it imports, the files below the folder on the Python path that it comes from count. Of
    installed modules, only those of its own package; this package's never.

    Args:
        module: Its dotted name.
        file: Where it is.

    Raises SyntaxError, with the name of the file, if one of them is not valid Python.
    """
    top, folder = module.partition(".")[0], python_folder(module, file)

    def file_of(name: str) -> Path | None:
        if name == module:
            return file
        first = name.partition(".")[0]
        strange = first == PACKAGE or (first != top and folder.name in INSTALLED)
        return None if strange else _file(name, folder)

    return _closure(module, file_of, _read)


def python_folder(module: str, file: Path) -> Path:
    """The folder on the Python path from which `file` is imported as `module`."""
    return file.parents[module.count(".") + (file.name == "__init__.py")]


def _own_closure(root: str, source: Path) -> dict[str, Source]:
    """By dotted name, the modules of `import_closure`."""

    def file_of(name: str) -> Path | None:
        return _file(name, source) if name.startswith(f"{PACKAGE}.") else None

    if file_of(root) is None:
        raise ModuleNotFoundError(f"no module {root} below {source}", name=root)
    return _closure(root, file_of, _read_once)


def _closure(root: str, file_of: FileOf, read: Callable[[Path], Source]) -> dict[str, Source]:
    """By dotted name, `root`, all it imports however deep, and their packages."""
    found: dict[str, Source] = {}
    waiting = [root]
    while waiting:
        module = waiting.pop()
        if not module or module in found or (path := file_of(module)) is None:
            continue
        found[module] = read(path)
        parent = module.rpartition(".")[0]
        package = module if path.name == "__init__.py" else parent
        waiting.append(parent)
        for name in found[module].imports:
            with suppress(ImportError):  # a relative import that leads out of its package fails when it runs
                waiting.append(resolve_name(name, package))
    return found


def _file(module: str, source: Path) -> Path | None:
    """The file of a module or package; None if the name is something else's (a function, another library)."""
    base = source.joinpath(*module.split("."))
    candidates = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in candidates if path.is_file()), None)


def _read(path: Path) -> Source:
    tree = ast.parse(path.read_bytes(), filename=str(path))
    imported = tuple(_imports(tree))
    return Source(path, _normalised(tree), imported)


_read_once = cache(_read)
"""For the files of this package, which do not change while it runs."""


def _normalised(tree: ast.Module) -> str:
    """The source of `tree` without comments, docstrings and formatting; changes `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [s for s in node.body if not _is_text(s)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a bare string: a docstring, or the description of an attribute."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield origin
            yield from (f"{origin}{'.' if node.module else ''}{alias.name}" for alias in node.names)
