"""The Q-network of one variant: encoder, penultimate module, head (paper Fig 2).

Axes: A actions, Z atoms, F head inputs; see `moe` for M, D, E, P, H. Leading axes (`...`) are batch axes:
a network takes one state or a batch of them. It sees the whole batch, rather than one state under
`vmap`, because XLA lays the experts' matrix products out far better that way on CPUs.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from moerl.networks.encoders import build_encoder
from moerl.networks.heads import Head, q_values
from moerl.networks.moe import build_moe
from moerl.networks.noisy import dense, per_key
from moerl.networks.tokens import tokenise
from moerl.study.specs import HeadSpec, NetworkSpec


class NetworkOutput(NamedTuple):
    """What a Q-network computes."""

    q_values: jax.Array
    """`[..., A]`."""
    head_input: jax.Array
    """Flat vector entering the head, `[..., F]`: baseline after ReLU; MoE linear combined tokens."""
    hidden: jax.Array
    """Penultimate ReLU activation: baseline `[..., 512·width]`, MoE the experts' `[..., E, P, H]`."""
    logits: jax.Array
    """`[..., A, Z]`: of each action's return distribution, or with Z = 1 its Q-value."""


class QNetwork(nn.Module):
    """Q-network of variant `spec`: parameters `encoder`, then `hidden` or `moe`, then `head`."""

    spec: NetworkSpec
    num_actions: int
    head: HeadSpec

    @nn.compact
    def __call__(self, state: jax.Array, keys: jax.Array | None = None) -> NetworkOutput:
        """Evaluate `state` `[..., 84, 84, 4]`, newest frame last.

        Args:
            state: uint8 frames, or float32 intensities (frames / 255, possibly augmented).
            keys: source of a noisy network's noise: a key per state, one key for all, or None for
                the noiseless network. Consumed.
        """
        image = state.astype(jnp.float32) / 255.0 if state.dtype == jnp.uint8 else state
        features = build_encoder(self.spec.encoder)(image)
        dense_keys = expert_keys = None
        if self.head.noisy and keys is not None:
            split = per_key(jax.random.split, keys)
            dense_keys, expert_keys = split[..., 0], split[..., 1]
        head_input, hidden = self._penultimate(features, dense_keys, expert_keys)
        logits = Head(self.head, self.num_actions, name="head")(head_input, dense_keys)
        return NetworkOutput(q_values(self.head, logits), head_input, hidden, logits)

    def _penultimate(
        self, features: jax.Array, dense_keys: jax.Array | None, expert_keys: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Head input `[..., F]` and hidden activation of `features` `[..., H, W, C]`."""
        batch = features.shape[:-3]
        if self.spec.tokens is None:
            layer = dense(self.head.noisy, self.spec.hidden_units * self.spec.width, "hidden")
            hidden = nn.relu(layer(features.reshape(*batch, -1), dense_keys))
            return hidden, hidden
        moe = build_moe(self.spec, self.head.noisy)
        mixed = moe(tokenise(features, self.spec.tokens), expert_keys)
        return mixed.tokens.reshape(*batch, -1), mixed.hidden


def build_network(spec: NetworkSpec, num_actions: int, head: HeadSpec | None = None) -> QNetwork:
    """The Q-network of variant `spec` for a game with `num_actions` actions; `head` defaults to DQN's."""
    return QNetwork(spec, num_actions, head or HeadSpec())
