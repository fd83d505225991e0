"""A digest of the source that a cheap stage depends on, so that an edit re-runs exactly what it touches.

Static: the import closure of the stage's module inside this package is found from the syntax trees,
nothing is imported. Comments, docstrings and formatting do not count.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "moerl"


def closure_digest(root: str, source: Path | None = None) -> str:
    """First 16 hex digits of the SHA-256 over the normalised source of `root` and all it imports.

    Args:
        root: Dotted name of a module of this package.
        source: Folder that holds the package; default: where this one is installed.

    Raises ModuleNotFoundError if there is no such module.
    """
    digest = hashlib.sha256()
    folder = source or Path(__file__).parents[2]
    for module in sorted(import_closure(root, folder)):
        digest.update(f"{module}\n{_read(_file(module, folder))[0]}\n".encode())
    return digest.hexdigest()[:16]


def source_digest(file: Path) -> str:
    """First 16 hex digits of the SHA-256 over the normalised source of one file, its imports left out.

    Raises SyntaxError.
    """
    return hashlib.sha256(_normalised(ast.parse(file.read_bytes())).encode()).hexdigest()[:16]


def import_closure(root: str, source: Path) -> set[str]:
    """Dotted names of `root`, the modules of this package that it imports however deep, and their packages.

    An import counts wherever it stands, inside a function or under `TYPE_CHECKING` too. The top
    package itself (version, no behaviour) is left out.
    """
    if _file(root, source) is None:
        raise ModuleNotFoundError(f"no module {root} below {source}", name=root)
    found: set[str] = set()
    waiting = [root]
    while waiting:
        module = waiting.pop()
        if module in found or (path := _file(module, source)) is None:
            continue
        found.add(module)
        parent = module.rpartition(".")[0]
        waiting += [parent, *_read(path)[1]] if parent != PACKAGE else _read(path)[1]
    return found - {PACKAGE}


def _file(module: str, source: Path) -> Path | None:
    """The file of a module or package; None if the name is something else's (a function, another library)."""
    if module.split(".")[0] != PACKAGE:
        return None
    base = source.joinpath(*module.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


@cache
def _read(path: Path | None) -> tuple[str, list[str]]:
    """Normalised source of a file and the dotted names it imports (modules, or things inside modules)."""
    assert path is not None
    tree = ast.parse(path.read_bytes())
    imported = list(_imports(tree))
    return _normalised(tree), imported


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
            assert node.module is not None, "imports are absolute throughout this package"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
