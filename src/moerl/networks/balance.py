"""Load-balancing losses of Top1-MoE (paper Fig 9; Riquelme et al. 2021, appendix A.2; method 3.4).

Both are the squared coefficient of variation, over experts, of how much each is asked to do; they
vanish when all are asked for the same. Per state, its tokens being the group.

Axes: M tokens, E experts; leading axes (`...`) are batch axes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from moerl.networks.routing import Routing
from moerl.study.specs import NetworkSpec


def squared_variation(amounts: jax.Array) -> jax.Array:
    """(standard deviation / mean)² of `amounts` `[..., E]`, population statistics.

    Written with the variance: the published code squares a root whose gradient is NaN when all
    experts are equal, as a single expert always is.
    """
    return jnp.var(amounts, axis=-1) / jnp.square(jnp.mean(amounts, axis=-1))


def importance_loss(gates: jax.Array) -> jax.Array:
    """How unevenly the router's probabilities `gates` `[..., M, E]` add up over tokens, `[...]`."""
    return squared_variation(jnp.sum(gates, axis=-2))


def load_loss(logits: jax.Array, noise: jax.Array, deviation: float) -> jax.Array:
    """How uneven the experts' chances are of being chosen under fresh noise, `[...]`.

    Expert e is chosen for a token if noise of this `deviation` lifts its logit to the highest noisy
    logit there.

    Args:
        logits: the router's, `[..., M, E]`.
        noise: one draw of that noise, `[..., M, E]`.
        deviation: its standard deviation.
    """
    noisy = logits + noise
    # Picked by its index, so that the gradient goes to one expert even if two tie.
    threshold = jnp.take_along_axis(noisy, jnp.argmax(noisy, axis=-1, keepdims=True), axis=-1)
    chance = 1.0 - jax.scipy.stats.norm.cdf((threshold - logits) / deviation)
    return squared_variation(jnp.mean(chance, axis=-2))


def balance_loss(spec: NetworkSpec, routing: Routing, key: jax.Array) -> jax.Array:
    """Weighted load-balancing losses of variant `spec`, averaged over the batch (scalar).

    `routing` is that of a Top1-MoE for a batch of states. `key` is consumed by the load loss, which
    draws its noise for the whole batch at once.
    """
    deviation = spec.load_noise / spec.num_experts
    noise = deviation * jax.random.normal(key, routing.logits.shape)
    importance = jnp.mean(importance_loss(routing.gates))
    load = jnp.mean(load_loss(routing.logits, noise, deviation))
    return spec.importance_weight * importance + spec.load_weight * load
