"""Subsets of a dataset in memory, and uniform batches of them (method 5).

Frames are stored once and stacked when they are sampled, by the frame ring that online agents use.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moerl.atari.lanes import FRAME_SHAPE
from moerl.offline.episodes import choose_episodes, states_of
from moerl.offline.layout import ACTION, Layout, file_of
from moerl.offline.recorded import MANIFEST, RecordedRun
from moerl.offline.source import TRANSITIONS_PER_CHECKPOINT, DatasetError, Place, Source
from moerl.replay.ring import FrameRing, Indices, Sample
from moerl.study.specs import STACK_SIZE


@dataclass(frozen=True)
class Subset:
    """Whole episodes one after the other, and which of their transitions may be sampled."""

    ring: FrameRing
    """Holds exactly the chosen episodes; it is never added to."""
    states: Indices
    """`[V]`, slots of the ring."""

    def sample_indices(self, rng: np.random.Generator, batch_size: int) -> Indices:
        """Draw `batch_size` of `states` uniformly, with replacement."""
        return self.states[rng.integers(len(self.states), size=batch_size)]

    def gather(self, indices: Indices) -> Sample:
        """The transitions at `indices` (`[B]`, of `states`)."""
        return self.ring.gather(indices)

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of all but the frames, which are a thousand times as much."""
        digest = hashlib.sha256()
        for values in (self.ring.actions, self.ring.rewards, self.ring.terminals, self.states):
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()[:16]

    def sample(self, rng: np.random.Generator, batch_size: int) -> Sample:
        """A uniform batch; `rng` is consumed by `sample_indices` alone."""
        return self.gather(self.sample_indices(rng, batch_size))


def open_source(path: Path, per_checkpoint: int = TRANSITIONS_PER_CHECKPOINT) -> Layout | RecordedRun:
    """The dataset in a folder: files in the published layout, or a finished run.

    Args:
        path: A folder of `*_ckpt.N.gz` files, one that has them in `replay_logs`, or a run's folder.
        per_checkpoint: Transitions of a checkpoint; only of a run, since files have theirs.

    Raises DatasetError.
    """
    if not path.is_dir():
        raise DatasetError(f"{path}: is not a folder; name a run's folder, or one with {_first_file()}")
    if (path / "replay_logs").is_dir():
        path = path / "replay_logs"
    if (path / MANIFEST).is_file() or any(path.glob("*.safetensors")):
        return RecordedRun.open(path, per_checkpoint)
    return Layout.open(path)


def load_subset(
    source: Source | Path,
    percent: int,
    seed: int,
    n_step: int,
    gamma: float,
    frames_folder: Path | None = None,
) -> Subset:
    """Load `percent` % of a dataset, chosen by `seed` (see `choose_episodes`).

    All of the data is read and checked first. Memory: 7,063 bytes per chosen transition (7 with
    `frames_folder`), 8 per state, and half a gigabyte at most while it loads.

    Args:
        source: The dataset, or its folder.
        percent: 1 to 100.
        seed: Of the choice; a run's own seed makes subsets differ between runs.
        n_step: Rewards summed up in a sample.
        gamma: Discount of each of these steps.
        frames_folder: Frames are kept in a file without a name there, which vanishes with the process,
            instead of in memory; 7,056 bytes per transition.

    Raises DatasetError.
    """
    if isinstance(source, Path):
        source = open_source(source)
    if not 1 <= percent <= 100:
        raise DatasetError(f"a subset of {percent} %: must be from 1 to 100")
    chosen = choose_episodes(source.episodes(), percent, seed)
    count = sum(len(episode) for episodes in chosen for episode in episodes)
    if count < n_step + STACK_SIZE:
        raise DatasetError(f"{percent} % of the dataset are {count} transitions: too few to sample from")
    places: list[list[Place]] = []
    at = 0
    for episodes in chosen:
        places.append([])
        for episode in episodes:
            places[-1].append(Place(episode, at))
            at += len(episode)
    frames = None if frames_folder is None else frames_on_disk(frames_folder, count)
    ring = FrameRing(count, n_step, gamma, frames=frames)
    source.fill(ring, places)
    ranges = [
        np.arange(states.start, states.stop) + place.at - place.episode.start
        for there in places
        for place in there
        for states in [
            states_of(place.episode, bool(ring.terminals[place.at + len(place.episode) - 1]), n_step)
        ]
    ]
    states = np.concatenate(ranges)
    if not len(states):
        raise DatasetError(
            f"{percent} % of the dataset: no episode is long enough for a {n_step}-step window"
        )
    return Subset(ring, states)


def frames_on_disk(folder: Path, count: int) -> npt.NDArray[np.uint8]:
    """Frames `[count, 84, 84]`, zeros, in an unnamed file. Raises DatasetError if there is no room for it."""
    size = count * FRAME_SHAPE[0] * FRAME_SHAPE[1]
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(
                file.fileno(), 0, size
            )  # a full disk shows here, not in the middle of training
            return np.memmap(file, dtype=np.uint8, mode="r+", shape=(count, *FRAME_SHAPE))
    except OSError as error:
        raise DatasetError(
            f"{folder}: cannot hold {size / 1e9:.1f} GB of frames ({error.strerror}); name another folder"
        ) from error


def _first_file() -> str:
    return file_of(Path(), ACTION, 0).name
