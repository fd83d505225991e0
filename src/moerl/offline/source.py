"""What every dataset is, wherever it lies: checkpoints of transitions, and where an episode goes in memory.

A *transition* is what the paper-era replay memory stores in one slot, padding included (method 4.6).
Transitions of a checkpoint are numbered in order of time, from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from moerl.offline.episodes import Episode
from moerl.replay.ring import FrameRing
from moerl.study.errors import UserError

TRANSITIONS_PER_CHECKPOINT = 1_000_000
"""Of the published data."""


class DatasetError(UserError):
    """A dataset, or what should become one, cannot be used; one line: which file, why, what to do."""


@dataclass(frozen=True)
class Place:
    """Where an episode goes: its first transition to slot `at`, the others behind it."""

    episode: Episode
    at: int


class Source(Protocol):
    """A dataset of C checkpoints."""

    def __len__(self) -> int:
        """C."""
        ...

    def episodes(self) -> list[list[Episode]]:
        """The episodes of every checkpoint `[C]`; together they are all of its transitions.

        Raises DatasetError. All of the data that is not made anew in `fill` has then been read and checked.
        """
        ...

    def fill(self, ring: FrameRing, places: Sequence[Sequence[Place]]) -> None:
        """Write the episodes `places[checkpoint]` into `ring`, rewards clipped. Raises DatasetError."""
        ...
