"""The published layout of the DQN Replay Dataset: six gzip'd `np.save` files per checkpoint (method 5).

A checkpoint is a dump of the paper-era replay memory, a ring of M slots. Reading is streamed and
unpickles nothing; what is wrong with a file is said in one line, with its name.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import tokenize
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from moerl.atari.lanes import FRAME_SHAPE
from moerl.offline.episodes import Episode, Flags, find_episodes
from moerl.offline.source import DatasetError, Place
from moerl.replay.ring import FrameRing
from moerl.study.errors import one_line
from moerl.study.games import MOST_ACTIONS
from moerl.study.json_file import parse_json
from moerl.study.long_step import long_step

OBSERVATION, ACTION, REWARD, TERMINAL = (
    f"$store$_{name}" for name in ("observation", "action", "reward", "terminal")
)
ADD_COUNT, INVALID_RANGE = "add_count", "invalid_range"
TYPES: dict[str, np.dtype[Any]] = {
    OBSERVATION: np.dtype(np.uint8),
    ACTION: np.dtype(np.int32),
    REWARD: np.dtype(np.float32),
    TERMINAL: np.dtype(np.uint8),
}
"""Of the columns: one value, or one frame, per slot."""
FILES = (*TYPES, ADD_COUNT, INVALID_RANGE)
"""Of every checkpoint."""
FACTS = "source.json"
"""Beside files that moerl wrote: the run that they are of."""
MOST_SLOTS = 2**27
"""Of a checkpoint: far more than any has."""
ROWS = 256
"""Frames decompressed at a time (2 MB; gzip holds them three times)."""
_WORKERS = 8
"""Checkpoints read side by side at most: each takes up to 60 MB, most of it for its columns."""
FETCH = (
    "fetch it from gs://atari-replay-datasets/dqn/<Game>/<run 1 to 5>/replay_logs/, or make a dataset of a "
    "finished DQN run with `moerl dataset convert`"
)

_PIECE = 2**22
_NO_HEADER = (
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    RecursionError,
    OverflowError,
    tokenize.TokenError,
)
"""What NumPy raises on the header of something else: it parses it as a Python literal."""
_FRAME_BYTES = int(np.prod(FRAME_SHAPE))
_Result = TypeVar("_Result")


def file_of(folder: Path, name: str, checkpoint: int) -> Path:
    """The file of one of `FILES`."""
    return folder / f"{name}_ckpt.{checkpoint}.gz"


@dataclass(frozen=True)
class Columns:
    """A checkpoint of M slots without its frames; the columns are in order of slots."""

    action: npt.NDArray[np.int32]
    reward: npt.NDArray[np.float32]
    terminal: Flags
    add_count: int
    """Transitions added to the ring by the time of the dump."""

    @property
    def slots(self) -> int:
        """M."""
        return len(self.action)

    @property
    def length(self) -> int:
        """L, transitions in the checkpoint: slots that were never written hold none."""
        return min(self.add_count, self.slots)

    def slot(self, transition: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The slots of transitions that are numbered in order of time, from 0."""
        oldest = self.add_count % self.slots if self.add_count > self.slots else 0
        return (transition + oldest) % self.slots

    @cached_property
    def order(self) -> npt.NDArray[np.int64]:
        """The slots in order of time, `[L]`."""
        return self.slot(np.arange(self.length))


@dataclass(frozen=True)
class Layout:
    """A folder in the published layout, all of whose files are there."""

    folder: Path
    checkpoints: int
    """They are numbered from 0."""
    facts: dict[str, str | int] | None
    """Of the run that moerl made it of; None: somebody else did."""

    @classmethod
    def open(cls, folder: Path) -> Layout:
        """Look at the names of the files; raises DatasetError if one is missing."""
        try:
            names = [path.name for path in folder.iterdir()]
        except OSError as error:
            raise DatasetError(f"{folder}: cannot be read ({error.strerror})") from error
        matches = [re.fullmatch(r"(.*)_ckpt\.([0-9]{1,9})\.gz", name) for name in names]
        found = {int(match[2]) for match in matches if match and match[1] in FILES}
        if not found:
            raise DatasetError(f"{folder}: has no {file_of(Path(), ACTION, 0)}; {FETCH}")
        absent = next((place for place, number in enumerate(sorted(found)) if number != place), None)
        if absent is not None:
            raise DatasetError(
                f"{folder}: checkpoint {absent} is missing, checkpoint {max(found)} is there; {FETCH}, or "
                f"move the checkpoints after {absent} away"
            )
        for checkpoint in sorted(found):
            for name in FILES:
                if not (path := file_of(folder, name, checkpoint)).is_file():
                    raise DatasetError(f"{path}: is missing; {FETCH}")
        return cls(folder, len(found), _facts(folder / FACTS))

    def __len__(self) -> int:
        return self.checkpoints

    def columns(self, checkpoint: int) -> Columns:
        """Read and check a checkpoint but for its frames, of which only the shape is looked at.

        Raises DatasetError.
        """
        found = {
            name: read_array(file_of(self.folder, name, checkpoint), TYPES[name], 1)
            for name in (ACTION, REWARD, TERMINAL)
        }
        lengths = {name: len(values) for name, values in found.items()}
        frames = file_of(self.folder, OBSERVATION, checkpoint)
        with open_array(frames) as (shape, dtype, _):
            _check(frames, dtype, TYPES[OBSERVATION], shape, (None, *FRAME_SHAPE))
        lengths[OBSERVATION] = shape[0]
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise DatasetError(
                f"{self.folder}: checkpoint {checkpoint}: its files have different lengths ({said}); "
                "fetch them again"
            )
        add_count = read_array(path := file_of(self.folder, ADD_COUNT, checkpoint), None, 0)
        read_array(file_of(self.folder, INVALID_RANGE, checkpoint), None, 1)
        if not (np.isfinite(add_count) and add_count >= 1) or not shape[0]:
            raise DatasetError(f"{path}: no transition was added to this checkpoint; fetch it again")
        columns = Columns(found[ACTION], found[REWARD], found[TERMINAL] != 0, int(add_count))
        used = columns.order  # other slots may hold anything
        for name, allowed, good in (
            (ACTION, f"0 to {MOST_ACTIONS - 1}", (found[ACTION] >= 0) & (found[ACTION] < MOST_ACTIONS)),
            (REWARD, "finite numbers", np.isfinite(found[REWARD])),
            (TERMINAL, "0 and 1", found[TERMINAL] <= 1),
        ):
            if not good[used].all():
                slot = used[np.flatnonzero(~good[used])[0]]
                raise DatasetError(
                    f"{file_of(self.folder, name, checkpoint)}: slot {slot} is {found[name][slot]}; allowed "
                    f"are {allowed}; fetch it again"
                )
        return columns

    def frames(self, checkpoint: int) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Decompress the frames of a checkpoint: some `[R, 84, 84]` at a time, with the slot of the first.

        Raises DatasetError, a damaged end included.
        """
        path = file_of(self.folder, OBSERVATION, checkpoint)
        with open_array(path) as (shape, _, file):
            for first in range(0, shape[0], ROWS):
                rows = min(ROWS, shape[0] - first)
                data = _take(path, file, rows * _FRAME_BYTES)
                yield first, np.frombuffer(data, np.uint8).reshape(rows, *FRAME_SHAPE)
            _at_end(path, file)

    def scan(self, checkpoint: int) -> tuple[Columns, Flags]:
        """Read all of a checkpoint; returns its columns, and which of its transitions, in time, are blank."""
        columns = self.columns(checkpoint)
        blank = (columns.action == 0) & (columns.reward == 0) & ~columns.terminal
        for first, frames in self.frames(checkpoint):
            # Most frames need no look: something else in their slot is not zero.
            rows = np.flatnonzero(blank[first : first + len(frames)])
            blank[first + rows] = ~frames[rows].any(axis=(1, 2))
        return columns, blank[columns.order]

    def episodes(self) -> list[list[Episode]]:
        """See `Source`. Decompresses everything once, several checkpoints side by side."""

        def find(checkpoint: int) -> list[Episode]:
            columns, blank = self.scan(checkpoint)
            return find_episodes(columns.terminal[columns.order], blank)

        return side_by_side(find, range(self.checkpoints), "checkpoints read")

    def fill(self, ring: FrameRing, places: Sequence[Sequence[Place]]) -> None:
        """See `Source`. Decompresses each checkpoint up to its last chosen frame."""

        def fill(checkpoint: int) -> None:
            columns = self.columns(checkpoint)
            target = np.full(columns.slots, -1)
            for place in places[checkpoint]:
                episode = place.episode
                slots = columns.slot(np.arange(episode.start, episode.stop))
                target[slots] = np.arange(place.at, place.at + len(episode))
            wanted = np.flatnonzero(target >= 0)
            to = target[wanted]
            ring.actions[to] = columns.action[wanted]
            ring.rewards[to] = np.clip(columns.reward[wanted], -1, 1)
            ring.terminals[to] = columns.terminal[wanted]
            for first, frames in self.frames(checkpoint):
                rows = np.flatnonzero(target[first : first + len(frames)] >= 0)
                ring.frames[target[first + rows]] = frames[rows]
                if first + len(frames) > wanted[-1]:
                    break

        chosen = [number for number, there in enumerate(places) if there]
        side_by_side(fill, chosen, "checkpoints copied")


def side_by_side(work: Callable[[int], _Result], items: Sequence[int], what: str) -> list[_Result]:
    """`work` on every item, in threads (zlib and NumPy release Python's lock); the first error is raised."""
    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), _WORKERS)) as pool:
        try:
            return [
                future.result() for future in long_step([pool.submit(work, item) for item in items], what)
            ]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def open_array(path: Path) -> Iterator[tuple[tuple[int, ...], np.dtype[Any], gzip.GzipFile]]:
    """Shape and type of a gzip'd `np.save` file, and the file at the first value.

    Raises DatasetError, also for whatever is found damaged while it is open.
    """
    try:
        with gzip.open(path, "rb") as file:
            version = npy.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version} of the NPY format")
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read_header(file)
            if fortran and len(shape) > 1:
                raise ValueError("in Fortran's order")
            if any(length < 0 for length in shape) or math.prod(shape) > MOST_SLOTS * _FRAME_BYTES:
                raise ValueError(f"of shape {list(shape)}")
            yield shape, dtype, file
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: is missing; {FETCH}") from error
    except EOFError as error:
        raise DatasetError(f"{path}: the gzip file is truncated; fetch it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DatasetError(f"{path}: not a sound gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    except DatasetError:
        raise
    except _NO_HEADER as error:
        said = one_line(error)
        raise DatasetError(f"{path}: holds no NumPy array as expected ({said}); fetch it again") from error


def read_array(path: Path, dtype: np.dtype[Any] | None, rank: int) -> npt.NDArray[Any]:
    """A small array. Raises DatasetError unless it has this rank and type.

    Args:
        path: Of the gzip'd `np.save` file.
        dtype: None: any type of integers, and floats for the zeros of a memory that is still empty.
        rank: Number of axes.
    """
    with open_array(path) as (shape, found, file):
        if dtype is None and found.kind not in "iuf":
            raise DatasetError(f"{path}: is of type {found}, not of numbers; fetch it again")
        _check(path, found, dtype or found, shape, (None,) * rank)
        if math.prod(shape) > MOST_SLOTS:
            raise DatasetError(f"{path}: has {math.prod(shape)} values, more than {MOST_SLOTS}")
        data = _take(path, file, found.itemsize * math.prod(shape))
        _at_end(path, file)
    return np.frombuffer(data, found).reshape(shape)


def _check(
    path: Path,
    found: np.dtype[Any],
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    expected: tuple[int | None, ...],
) -> None:
    if found != dtype:
        raise DatasetError(f"{path}: is of type {found}, not {dtype}; is it another column's file?")
    if len(shape) != len(expected) or any(n not in (None, m) for n, m in zip(expected, shape, strict=True)):
        wanted = ", ".join("M" if n is None else str(n) for n in expected)
        raise DatasetError(f"{path}: has shape {list(shape)}, not [{wanted}]; is it another column's file?")


def _take(path: Path, file: gzip.GzipFile, size: int) -> bytes:
    parts = []
    while size > 0:  # piece by piece: no memory is set aside for values that are only announced
        parts.append(file.read(min(size, _PIECE)))
        if not parts[-1]:
            raise DatasetError(f"{path}: holds fewer values than its header says; fetch it again")
        size -= len(parts[-1])
    return b"".join(parts)


def _at_end(path: Path, file: gzip.GzipFile) -> None:
    """Also makes gzip compare its checksum."""
    if file.read(1):
        raise DatasetError(f"{path}: holds more values than its header says; fetch it again")


def _facts(path: Path) -> dict[str, str | int] | None:
    if not path.is_file():
        return None
    try:
        return parse_json(dict[str, str | int], path.read_bytes())
    except (OSError, ValueError) as error:
        said = one_line(error)
        raise DatasetError(f"{path}: not the facts of a run ({said}); convert the run again") from error
