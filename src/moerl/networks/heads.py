"""The head of a Q-network: scalar or distributional, dueling or not, dense or noisy (method 2.3, 2.4).

Axes: A actions, Z atoms of a return distribution (1: the value itself), F head inputs; leading axes
(`...`) are batch axes.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import lecun_normal, xavier_uniform

from moerl.networks.noisy import dense
from moerl.study.specs import HeadInit, HeadSpec


def support(spec: HeadSpec) -> jax.Array:
    """The atoms `[Z]` of a distributional head. Raises ValueError for a scalar one."""
    if spec.v_max is None:
        raise ValueError("a scalar head has no support")
    return jnp.linspace(-spec.v_max, spec.v_max, spec.num_atoms)


def q_values(spec: HeadSpec, logits: jax.Array) -> jax.Array:
    """Q-values `[..., A]` of `logits` `[..., A, Z]`: means of their distributions, or they themselves."""
    if spec.v_max is None:
        return logits[..., 0]
    atoms = support(spec).reshape(*(1,) * (logits.ndim - 1), -1)
    return jnp.sum(atoms * jax.nn.softmax(logits), axis=-1)


class Head(nn.Module):
    """One layer `q`, or two layers `advantage` and `value`, from the head input to logits."""

    spec: HeadSpec
    num_actions: int

    @nn.compact
    def __call__(self, head_input: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Logits `[..., A, Z]` of `head_input` `[..., F]`; `keys` as in `noisy`."""
        noisy, atoms = self.spec.noisy, self.spec.num_atoms
        init = lecun_normal() if self.spec.head_init is HeadInit.LECUN else xavier_uniform()
        shape = (*head_input.shape[:-1], self.num_actions, atoms)
        if not self.spec.dueling:
            return dense(noisy, self.num_actions * atoms, "q", init)(head_input, keys).reshape(shape)
        # B16: both layers are given the same key, so they share p (and not q).
        raw = dense(noisy, self.num_actions * atoms, "advantage", init)(head_input, keys)
        advantage = raw.reshape(shape)
        value = dense(noisy, atoms, "value", init)(head_input, keys)[..., None, :]
        return value + advantage - jnp.mean(advantage, axis=-2, keepdims=True)
