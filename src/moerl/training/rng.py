"""Counter-based randomness: every draw is a function of (run seed, purpose, step).

There is no generator state to save, and nothing else that runs can shift a run's draws. The host
draws from NumPy generators, the device from JAX keys.
"""

from __future__ import annotations

from enum import IntEnum

import jax
import numpy as np


class Purpose(IntEnum):
    """What a stream is for; the numbers are part of a run's definition and never change."""

    EXPLORE = 1
    """One draw per action: the ε test and the random action. `step` = agent step."""
    REPLAY = 2
    """Indices of one training batch. `step` = gradient step."""
    SNAPSHOT = 3
    """Indices of a snapshot's batches. `step` = iteration."""
    UPDATE = 4
    """On the device: noise and augmentation of one update. `step` = gradient step."""
    ACT = 5
    """On the device: noise of one action. `step` = agent step."""
    EVALUATION = 6
    """The run seed that an evaluation is played under. `step` = iteration."""
    EVALUATION_EXPLORE = 7
    """All of an evaluation episode's draws as EXPLORE's, under that run seed. `step` = episode."""


def stream(run_seed: int, purpose: Purpose, step: int) -> np.random.Generator:
    """A fresh generator for one step of one purpose of one run (Philox keyed by both)."""
    return np.random.Generator(np.random.Philox(key=[run_seed, int(purpose)], counter=[0, 0, step, 0]))


def device_key(run_seed: int, purpose: Purpose) -> jax.Array:
    """The key of one purpose of one run; fold in the step to get the step's own."""
    return jax.random.fold_in(jax.random.key(run_seed), int(purpose))
