"""Temporal-difference losses for one transition."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from moerl.study.specs import Loss


def td_target(reward: jax.Array, terminal: jax.Array, next_value: jax.Array, discount: float) -> jax.Array:
    """One-step (or n-step) bootstrap target, scalar.

    Args:
        reward: n-step return before the bootstrap, clipped rewards, scalar.
        terminal: whether the episode ended inside the window, scalar bool.
        next_value: value of the state after the window, scalar.
        discount: gamma ** n, also where the window is cut by a terminal (masked there anyway).
    """
    return reward + discount * next_value * (1.0 - terminal)


def td_loss(delta: jax.Array, loss: Loss) -> jax.Array:
    """Loss of a temporal difference `delta` (scalar): its square (no ½), or Huber's with bend 1."""
    match loss:
        case Loss.MSE:
            return jnp.square(delta)
        case Loss.HUBER:
            size = jnp.abs(delta)
            return jnp.where(size <= 1.0, 0.5 * jnp.square(size), size - 0.5)
