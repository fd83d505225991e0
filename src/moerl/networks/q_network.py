"""The Q-network of one variant: encoder, penultimate module, head (paper Fig 2).

Axes: A actions, F head inputs; see `moe` for M, D, E, P, H. Leading axes (`...`) are batch axes:
a network takes one state or a batch of them. It sees the whole batch, rather than one state under
`vmap`, because XLA lays the experts' matrix products out far better that way on CPUs.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import xavier_uniform

from moerl.networks.encoders import build_encoder
from moerl.networks.moe import build_moe
from moerl.networks.tokens import tokenise
from moerl.study.specs import NetworkSpec


class NetworkOutput(NamedTuple):
    """What a Q-network computes."""

    q_values: jax.Array
    """`[..., A]`."""
    head_input: jax.Array
    """Flat vector entering the head, `[..., F]`: baseline after ReLU; MoE linear combined tokens."""
    hidden: jax.Array
    """Penultimate ReLU activation: baseline `[..., 512·width]`, MoE the experts' `[..., E, P, H]`."""


class ScalarHead(nn.Module):
    """One dense layer to a scalar value per action (DQN)."""

    num_actions: int

    @nn.compact
    def __call__(self, head_input: jax.Array) -> jax.Array:
        """Q-values `[..., A]` of `head_input` `[..., F]`."""
        return nn.Dense(self.num_actions, kernel_init=xavier_uniform(), name="q")(head_input)


class QNetwork(nn.Module):
    """Q-network of variant `spec`: parameters `encoder`, then `hidden` or `moe`, then `head`."""

    spec: NetworkSpec
    num_actions: int

    @nn.compact
    def __call__(self, state: jax.Array) -> NetworkOutput:
        """Evaluate `state` `[..., 84, 84, 4]` (uint8, newest frame last)."""
        features = build_encoder(self.spec.encoder)(state.astype(jnp.float32) / 255.0)
        head_input, hidden = self._penultimate(features)
        return NetworkOutput(ScalarHead(self.num_actions, name="head")(head_input), head_input, hidden)

    def _penultimate(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Head input `[..., F]` and hidden activation of `features` `[..., H, W, C]`."""
        batch = features.shape[:-3]
        if self.spec.tokens is None:
            dense = nn.Dense(
                self.spec.hidden_units * self.spec.width,
                kernel_init=xavier_uniform(),
                name="hidden",
            )
            hidden = nn.relu(dense(features.reshape(*batch, -1)))
            return hidden, hidden
        mixed = build_moe(self.spec)(tokenise(features, self.spec.tokens))
        return mixed.tokens.reshape(*batch, -1), mixed.hidden


def build_network(spec: NetworkSpec, num_actions: int) -> QNetwork:
    """The Q-network of variant `spec` for a game with `num_actions` actions."""
    return QNetwork(spec, num_actions)
