"""Writing a checkpoint in the published layout: equal transitions give equal bytes."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from moerl.atari.lanes import FRAME_SHAPE, Frame
from moerl.offline.layout import (
    ACTION,
    ADD_COUNT,
    INVALID_RANGE,
    OBSERVATION,
    REWARD,
    TERMINAL,
    TYPES,
    file_of,
)
from moerl.study.specs import STACK_SIZE

LEVEL = 6
"""Of compression."""
_ROWS = 256  # frames compressed at a time
_HORIZON = 1  # of the memory whose cursor `invalid_range` describes: DQN's


@contextmanager
def create(path: Path) -> Iterator[gzip.GzipFile]:
    """A new gzip file that says neither when nor under which name it was written."""
    with path.open("xb") as raw, gzip.GzipFile("", "wb", LEVEL, raw, mtime=0) as file:
        yield file


class CheckpointWriter:
    """Takes the transitions of one checkpoint in order; a context manager, which writes the files.

    The checkpoint is a ring that was filled exactly once, by `length` transitions.
    """

    def __init__(self, folder: Path, checkpoint: int, length: int) -> None:
        self._folder, self._checkpoint, self._length, self._added = folder, checkpoint, length, 0
        self._columns: dict[str, npt.NDArray[Any]] = {
            name: np.zeros(length, TYPES[name]) for name in (ACTION, REWARD, TERMINAL)
        }
        self._buffer = np.zeros((_ROWS, *FRAME_SHAPE), TYPES[OBSERVATION])
        self._stack = ExitStack()

    def __enter__(self) -> CheckpointWriter:
        self._file = self._stack.enter_context(create(self._path(OBSERVATION)))
        _header(self._file, TYPES[OBSERVATION], (self._length, *FRAME_SHAPE))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is not None:
                return
            assert self._added == self._length, f"{self._added} of {self._length} transitions"
            self._flush(self._added % _ROWS)
        cursor = 0  # a ring filled once ends where it began
        count, stack = np.array(self._length), np.arange(STACK_SIZE + _HORIZON)
        counters = {ADD_COUNT: count, INVALID_RANGE: (cursor - _HORIZON + stack) % self._length}
        for name, values in (self._columns | counters).items():
            with create(self._path(name)) as file:
                _header(file, values.dtype, values.shape)
                file.write(values.tobytes())

    def add(self, frame: Frame | int, action: int, reward: float, terminal: bool) -> None:
        """Add a transition; `reward` is clipped, a `frame` of 0 is padding's."""
        at, row = self._added, self._added % _ROWS
        self._buffer[row] = frame
        self._columns[ACTION][at] = action
        self._columns[REWARD][at] = reward
        self._columns[TERMINAL][at] = terminal
        self._added += 1
        if row == _ROWS - 1:
            self._flush(_ROWS)

    def _flush(self, rows: int) -> None:
        self._file.write(self._buffer[:rows].tobytes())

    def _path(self, name: str) -> Path:
        return file_of(self._folder, name, self._checkpoint)


def _header(file: gzip.GzipFile, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """As `np.save` writes it."""
    facts = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, facts)
