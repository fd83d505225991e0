"""State files: safetensors with a digest over everything in them, written atomically.

A reader gets exactly what was written or a `StateError` that names the file and what is wrong with
it; nothing is unpickled, no code runs.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from moerl.study.errors import FailureError, one_line

Tensors = dict[str, npt.NDArray[Any]]


class StateError(FailureError):
    """A state file is missing, torn, corrupted or not what was expected; one line."""


_UNREADABLE = (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError)
"""What reading damaged bytes raises: NumPy has none of some types of tensors, JSON may be nested too deep."""


def _header(metadata: dict[str, str] | None) -> tuple[dict[str, str], dict[str, Any]]:
    """Digest and metadata text of a file, and the metadata. Raises one of `_UNREADABLE`."""
    header = json.loads((metadata or {})["moerl"])
    meta = json.loads(header["meta"])
    if not isinstance(meta, dict):
        raise TypeError("its metadata is no mapping")
    return header, meta


def _digest(tensors: Tensors, meta: str) -> str:
    digest = hashlib.sha256(meta.encode())
    for name in sorted(tensors):
        value = np.asarray(tensors[name], order="C")
        digest.update(f"\0{name}\0{value.dtype.str}\0{value.shape}\0".encode())
        digest.update(value.data if value.size else b"")
    return digest.hexdigest()


def dump(tensors: Tensors, meta: dict[str, Any]) -> bytes:
    """Serialise to bytes; equal input gives equal bytes. `meta` is any JSON value."""
    text = json.dumps(meta, sort_keys=True, allow_nan=False)
    # One metadata key only: safetensors writes several in hash order.
    header = json.dumps({"digest": _digest(tensors, text), "meta": text}, sort_keys=True)
    return save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}, {"moerl": header})


def write_atomic(path: Path, data: bytes) -> None:
    """Write to a temporary name, fsync, rename, fsync the folder: readers see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def store(path: Path, tensors: Tensors, meta: dict[str, Any]) -> None:
    """Write a state file atomically."""
    write_atomic(path, dump(tensors, meta))


def read_meta(path: Path) -> dict[str, Any]:
    """The metadata of a state file alone, read in no time but not verified. Raises StateError."""
    try:
        with safe_open(path, framework="numpy") as file:
            return _header(file.metadata())[1]
    except FileNotFoundError as error:
        raise StateError(f"{path}: does not exist") from error
    except _UNREADABLE as error:
        raise StateError(f"{path}: not a readable state file ({one_line(error)})") from error


def load(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read and verify a state file. Raises StateError."""
    try:
        with safe_open(path, framework="numpy") as file:
            header, meta = _header(file.metadata())
            tensors: Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        good = header["digest"] == _digest(tensors, header["meta"])
    except FileNotFoundError as error:
        raise StateError(f"{path}: does not exist") from error
    except _UNREADABLE as error:
        raise StateError(f"{path}: not a readable state file ({one_line(error)})") from error
    if not good:
        raise StateError(f"{path}: checksum mismatch; the file is corrupted")
    return tensors, meta
