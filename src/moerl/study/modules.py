"""A mixture of experts that is none of the paper's: the class that a variant names, seen from outside.

Its file is found and read, and never run: the Snakefile, which every cluster job reads again, must not
import JAX, and mistakes must come to light before any job. `moerl.networks.custom` imports it.
"""

from __future__ import annotations

import ast
import operator
from dataclasses import dataclass
from functools import reduce
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, create_model

from moerl.study.closure import module_closure, module_digest, python_folder
from moerl.study.errors import one_of
from moerl.study.specs import Frozen

SIZES = ("num_experts", "hidden_units", "noisy", "capacity_factor", "slots")
"""Fields that every mixture declares and is given; all others it declares are its options."""

_KINDS: dict[str, Any] = {"bool": bool, "int": int, "float": float, "str": str, "None": type(None)}


class Plain(Frozen):
    """Base of the models of options: values are of the declared type as they stand, but for 1 as 1.0."""

    model_config = ConfigDict(strict=True)


@dataclass(frozen=True)
class ModuleSource:
    """What the file of a class says about it."""

    digest: str
    """Of the file and what it imports from the same place, without comments, docstrings and formatting."""
    options: type[Plain]
    """Model of the options it takes."""


def module_source(path: str) -> ModuleSource:
    """Look at the class at `path`, "package.module:ClassName".

    Raises ValueError, one line, if it is not found, its source is not valid Python, or it lacks a field that
    every mixture declares.
    """
    module, _, name = path.partition(":")
    file = _find(module)
    if file is None:
        raise ValueError(f"no Python file of a module {module!r}; put its folder on PYTHONPATH or install it")
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
        digest = module_digest(module, file)
    except SyntaxError as error:
        problem = f"line {error.lineno}: {error.msg}"
        raise ValueError(f"{error.filename} is not valid Python ({problem})") from error
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if name not in classes:
        raise ValueError(f"{file}: {one_of(name, classes, 'class')}")
    fields = {
        statement.target.id: statement
        for statement in classes[name].body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }
    if lacking := [field for field in SIZES if field not in fields]:
        wanted = ", ".join(SIZES)
        raise ValueError(f"{file}: {name} does not declare {', '.join(lacking)} (a mixture has {wanted})")
    options: dict[str, Any] = {}
    for field, statement in fields.items():
        if field not in SIZES and (kind := _kind(statement)) is not None:
            # What a variant leaves out is left to the class: the default here is never used.
            options[field] = (kind, ... if statement.value is None else None)
    return ModuleSource(digest, create_model(f"{name}Options", __base__=Plain, **options))


def module_files(path: str) -> dict[str, Path]:
    """The source that the digest of the class at `path` is over: name below the Python path → file.

    Raises ValueError if it is not found, SyntaxError if it is not valid Python.
    """
    module = path.partition(":")[0]
    file = _find(module)
    if file is None:
        raise ValueError(f"no Python file of a module {module!r}")
    folder = python_folder(module, file)
    paths = [source.path for source in module_closure(module, file).values()]
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _find(module: str) -> Path | None:
    """The Python file of a module by its dotted name; None if there is none. No package on the way is run."""
    first, *rest = module.split(".")
    if first == "__main__":  # the program's own: another in every command
        return None
    try:
        found: ModuleSpec | None = find_spec(first)
    except ValueError:  # loaded, and not from a file
        return None
    name = first
    for part in rest:
        if found is None or found.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        found = PathFinder.find_spec(name, list(found.submodule_search_locations))
    origin = Path(found.origin) if found is not None and found.has_location and found.origin else None
    return origin if origin is not None and origin.suffix == ".py" else None


def _kind(field: ast.AnnAssign) -> Any:
    """The type of an option; None for a field of a type that YAML cannot give, which keeps its default.

    Raises ValueError if such a field has no default.
    """
    annotation, target = ast.unparse(field.annotation), ast.unparse(field.target)
    names = [name.strip(" '\"") for name in annotation.split("|")]
    if all(name in _KINDS for name in names):
        return reduce(operator.or_, (_KINDS[name] for name in names))
    if field.value is None:
        allowed = ", ".join(_KINDS)
        raise ValueError(
            f"its option {target} is of type {annotation}, which a file cannot give (allowed: {allowed}, "
            "joined by |); give it a default"
        )
    return None
