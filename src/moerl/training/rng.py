"""Counter-based randomness on the host: every draw is a function of (run seed, purpose, step).

There is no generator state to save, and nothing else that runs can shift a run's draws.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for; the numbers are part of a run's definition and never change."""

    EXPLORE = 1
    """One draw per action: the ε test and the random action. `step` = agent step."""
    REPLAY = 2
    """Indices of one training batch. `step` = gradient step."""
    SNAPSHOT = 3
    """Indices of a snapshot's batches. `step` = iteration."""


def stream(run_seed: int, purpose: Purpose, step: int) -> np.random.Generator:
    """A fresh generator for one step of one purpose of one run (Philox keyed by both)."""
    return np.random.Generator(np.random.Philox(key=[run_seed, int(purpose)], counter=[0, 0, step, 0]))
