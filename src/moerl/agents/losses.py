"""Temporal-difference targets and losses for one transition.

Axes: A actions, Z atoms of a return distribution.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from moerl.study.specs import Loss


def td_target(reward: jax.Array, terminal: jax.Array, next_value: jax.Array, discount: float) -> jax.Array:
    """One-step (or n-step) bootstrap target, scalar; for atoms `next_value` `[Z]`, where each moves to.

    Args:
        reward: n-step return before the bootstrap, clipped rewards, scalar.
        terminal: whether the episode ended inside the window, scalar bool.
        next_value: value of the state after the window, scalar or `[Z]`.
        discount: gamma ** n, also where the window is cut by a terminal (masked there anyway).
    """
    return reward + discount * next_value * (1.0 - terminal)


def td_loss(delta: jax.Array, loss: Loss) -> jax.Array:
    """Loss of a temporal difference `delta` (scalar): its square (no ½), or Huber's with bend 1.

    Raises:
        ValueError: `loss` is C51, which has no temporal difference.
    """
    match loss:
        case Loss.MSE:
            return jnp.square(delta)
        case Loss.HUBER:
            size = jnp.abs(delta)
            return jnp.where(size <= 1.0, 0.5 * jnp.square(size), size - 0.5)
        case Loss.C51:
            raise ValueError("C51 compares distributions: see project and cross_entropy")


def project(atoms: jax.Array, probabilities: jax.Array, support: jax.Array) -> jax.Array:
    """Project a distribution onto `support` (Bellemare et al. 2017, equation 7).

    Each atom is clipped to the support's ends, and its mass shared by the two support points beside
    it, the nearer one taking more.

    Args:
        atoms: where the mass lies, `[Z]`.
        probabilities: the mass, `[Z]`.
        support: evenly spaced and ascending, `[Z]`.

    Returns:
        The mass on `support`, `[Z]`.
    """
    spacing = (support[-1] - support[0]) / (support.shape[0] - 1)
    clipped = jnp.clip(atoms, support[0], support[-1])
    distances = jnp.abs(clipped[None, :] - support[:, None]) / spacing
    return jnp.sum(jnp.clip(1.0 - distances, 0.0, 1.0) * probabilities[None, :], axis=-1)


def cross_entropy(target: jax.Array, logits: jax.Array) -> jax.Array:
    """Cross-entropy (scalar) of the distribution of `logits` `[Z]` under the distribution `target` `[Z]`."""
    return -jnp.sum(target * jax.nn.log_softmax(logits))


def conservative_penalty(q_values: jax.Array, action: jax.Array) -> jax.Array:
    """CQL's penalty (scalar): log Σ exp over all actions, less the action that was taken.

    Kumar et al. (2020), equation 4 (CQL(H)) for discrete actions, without its weight; method 5.

    Args:
        q_values: online Q-values of the state, `[A]`.
        action: the action taken in it, scalar int.

    Returns:
        Positive; near zero where the taken action is valued far above all others.
    """
    return jax.nn.logsumexp(q_values) - q_values[action]
