"""Episodes of a checkpoint, and which of them a subset takes (method 5): pure functions of small arrays.

The published layout marks an episode's end by a terminal. One that was cut (time limit) leaves no mark
but the padding that precedes the next: three transitions of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from moerl.study.specs import STACK_SIZE

PADDING = STACK_SIZE - 1
"""All-zero transitions before an episode."""
_SUBSET = 101  # of the random stream; the streams of training (moerl.training.rng) have small numbers

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Episode:
    """An episode, its padding included, or as much of it as the checkpoint has: transitions [start, stop)."""

    start: int
    stop: int
    first_state: int
    """From this transition on, the stack of four frames is known and the transition is no padding."""

    def __len__(self) -> int:
        return self.stop - self.start


def find_episodes(terminal: Flags, blank: Flags) -> list[Episode]:
    """Cut a checkpoint of L transitions, in order of time, into its episodes.

    An episode starts at the checkpoint's first transition, after a terminal, and where three blank
    transitions follow each other (or fewer, if the checkpoint ends with them): the padding after a cut.
    Whether further blank transitions there are padding, too, cannot be known, so none of them is a state.

    Args:
        terminal: `[L]`.
        blank: `[L]`, whether frame, action, reward and terminal are zero.
    """
    length = len(terminal)
    terminals = np.flatnonzero(terminal)
    starts = {int(end) + 1: int(end) + 1 + PADDING for end in terminals if end + 1 < length}
    edges = np.flatnonzero(np.diff(np.concatenate(([False], blank, [False])).astype(np.int8)))
    for first, behind in edges.reshape(-1, 2).tolist():
        padding = behind - first >= PADDING or behind == length
        if first not in starts and (first == 0 or padding):
            starts[first] = max(first + PADDING, behind)
    starts.setdefault(0, PADDING)
    bounds = [*sorted(starts), length]
    return [Episode(start, stop, min(starts[start], stop)) for start, stop in pairwise(bounds)]


def choose_episodes(checkpoints: Sequence[Sequence[Episode]], percent: int, seed: int) -> list[list[Episode]]:
    """Draw `percent` % of the data: whole episodes, uniformly without replacement, checkpoint by checkpoint.

    Episodes of a checkpoint are drawn until the transitions drawn so far, of this and of all checkpoints
    before it, are at least `percent` % of theirs. So there are never fewer, and fewer than one episode too
    many, after every checkpoint and in all.

    Args:
        checkpoints: The episodes of each; they are all of its transitions.
        percent: 1 to 100.
        seed: Of the draws, which also depend on the checkpoint's number and on nothing else.

    Returns:
        The chosen episodes of each checkpoint, in order of time.
    """
    chosen = []
    drawn = due = 0
    for number, episodes in enumerate(checkpoints):
        due += percent * sum(map(len, episodes))
        rng = np.random.Generator(np.random.Philox(key=[seed, _SUBSET], counter=[0, 0, number, 0]))
        taken = []
        for i in rng.permutation(len(episodes)):
            if 100 * drawn >= due:
                break
            taken.append(episodes[i])
            drawn += len(episodes[i])
        chosen.append(sorted(taken, key=lambda episode: episode.start))
    return chosen


def states_of(episode: Episode, terminal: bool, n_step: int) -> range:
    """Transitions of `episode` that may be sampled: their stack and their n-step window lie inside of it.

    A window need not end before an episode that ends with a `terminal`: rewards stop there, and nothing
    is bootstrapped.
    """
    return range(episode.first_state, episode.stop if terminal else episode.stop - n_step)
