"""Routing: which tokens reach which experts, and how the experts' outputs come back (method 3.1, 3.2).

Pure functions; `moe` and `mixtures` hold the parameters.

Axes: M tokens, D token width, E experts, P slots per expert, N = E·P slots in all; leading axes
(`...`) are batch axes, none for a single state.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

NORM_EPSILON = 1e-6
"""Added to a norm before dividing by it."""


class Routing(NamedTuple):
    """How a mixture routed the tokens of each state."""

    dispatch: jax.Array
    """Share of token m in slot p of expert e, `[..., M, E, P]`. SoftMoE: over the tokens of a slot
    they sum to 1. Top1: 1 where the token sits, 0 elsewhere; all 0 for a dropped token."""
    combine: jax.Array
    """Weight of each slot's output in the token that comes out, `[..., M, E, P]`."""
    logits: jax.Array
    """What the weights are made from: SoftMoE `[..., M, E, P]`, Top1 `[..., M, E]` before any noise."""
    gates: jax.Array
    """Weight of each expert for each token, summing to 1, `[..., M, E]`; Top1: before tokens are dropped."""


class SlotAverages(NamedTuple):
    """Softmaxes of a SoftMoE's logits before their division, which is cheaper after averaging."""

    dispatch: jax.Array
    """`[..., M, N]`; divide what is averaged over tokens by `dispatch_mass`."""
    dispatch_mass: jax.Array
    """`[..., N]`"""
    combine: jax.Array
    """`[..., M, N]`; divide what is averaged over slots by `combine_mass`."""
    combine_mass: jax.Array
    """`[..., M]`"""


def slots_per_expert(
    num_tokens: int, num_experts: int, capacity_factor: float = 1.0, fixed: int | None = None
) -> int:
    """Slots of each expert: `fixed`, or the tokens × `capacity_factor` shared out, rounded up."""
    return fixed if fixed is not None else math.ceil(num_tokens * capacity_factor / num_experts)


def l2_normalise(x: jax.Array, axis: int) -> jax.Array:
    """`x` divided by its Euclidean norm along `axis`; zeros stay zeros.

    The published code's derivative of the norm is NaN at zero, where it meets every token that no
    channel responds to. Here it is zero.
    """
    square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    positive = square > 0
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
    return x / (norm + NORM_EPSILON)


def soft_logits(tokens: jax.Array, phi: jax.Array, scalar: jax.Array | None) -> jax.Array:
    """Affinity of each token to each slot, `[..., M, N]`.

    Args:
        tokens: `[..., M, D]`.
        phi: Φ, one slot per column: `[D, N]` for all states, or `[..., D, N]`, one for each.
        scalar: None, or the factor (`[1]`) of the ℓ2-normalised variant: then `tokens` and the
            columns of `phi` are normalised (Puigcerver et al. 2023, section 2.3).
    """
    if scalar is not None:
        tokens, phi = l2_normalise(tokens, -1), scalar[0] * l2_normalise(phi, -2)
    return jnp.einsum("...md,dn->...mn" if phi.ndim == 2 else "...md,...dn->...mn", tokens, phi)


def stable_exp(logits: jax.Array, axis: int) -> jax.Array:
    """Softmax along `axis` before its division: exp(logits - max), in (0, 1] with a 1 in every slice."""
    return jnp.exp(logits - lax.stop_gradient(jnp.max(logits, axis=axis, keepdims=True)))


def slot_averages(logits: jax.Array) -> SlotAverages:
    """Dispatch weights, softmax over tokens, and combine weights, softmax over slots, of `[..., M, N]`."""
    dispatch = stable_exp(logits, axis=-2)
    combine = stable_exp(logits, axis=-1)
    return SlotAverages(dispatch, jnp.sum(dispatch, axis=-2), combine, jnp.sum(combine, axis=-1))


def soft_routing(logits: jax.Array, averages: SlotAverages, num_experts: int) -> Routing:
    """The routing that `logits` `[..., M, N]` and their softmaxes say."""
    shape = (*logits.shape[:-1], num_experts, -1)
    dispatch = averages.dispatch / averages.dispatch_mass[..., None, :]
    combine = (averages.combine / averages.combine_mass[..., None]).reshape(shape)
    return Routing(dispatch.reshape(shape), combine, logits.reshape(shape), jnp.sum(combine, axis=-1))


def top1_dispatch(choice: jax.Array, num_experts: int, slots: int) -> jax.Array:
    """Place tokens in slots of their chosen expert, first come first served.

    B12: experts fill in raster order, not by score; a token whose expert is full gets no slot.

    Args:
        choice: chosen expert of each token, `[..., M]` integers in [0, E).
        num_experts: E.
        slots: P, slots per expert.

    Returns:
        `[..., M, E, P]` float32, 1 where token m sits in slot p of expert e, else 0.
    """
    chosen = jax.nn.one_hot(choice, num_experts, dtype=jnp.int32)
    place = jnp.cumsum(chosen, axis=-2) * chosen - 1  # -1, which is no slot: another's token
    return jax.nn.one_hot(place, slots)


def top_gate(gates: jax.Array) -> jax.Array:
    """The highest of each token's `gates` `[..., M, E]`, `[..., M]`.

    Like the official top_k, argmax gives ties to the lowest index, and all of the gradient with it;
    a maximum's own gradient would be shared among them.
    """
    chosen = jax.nn.one_hot(jnp.argmax(gates, axis=-1), gates.shape[-1])
    return jnp.sum(chosen * gates, axis=-1)


def top1_routing(logits: jax.Array, noise: jax.Array | None, slots: int) -> Routing:
    """Send each token to the expert its (noisy) logit is highest for, while that has one of `slots`.

    Args:
        logits: the router's, `[..., M, E]`.
        noise: added to them before anything is decided, `[..., M, E]` or `[M, E]`; None: nothing.
        slots: slots per expert.
    """
    if noise is None:
        gates = jax.nn.softmax(logits, axis=-1)
    else:
        gates = jax.nn.softmax(logits + jnp.broadcast_to(noise, logits.shape), axis=-1)
    dispatch = top1_dispatch(jnp.argmax(gates, axis=-1), logits.shape[-1], slots)
    return Routing(dispatch, dispatch * top_gate(gates)[..., None, None], logits, gates)
