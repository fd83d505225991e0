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

from moerl.networks import custom
from moerl.networks.encoders import build_encoder
from moerl.networks.heads import Head, q_values
from moerl.networks.mixtures import BigMixture, LayerMixtures
from moerl.networks.moe import build_moe
from moerl.networks.noisy import dense, per_key
from moerl.networks.routing import Routing
from moerl.networks.tokens import tokenise
from moerl.study.specs import ExpertType, HeadSpec, NetworkSpec


class NetworkOutput(NamedTuple):
    """What a Q-network computes."""

    q_values: jax.Array
    """`[..., A]`."""
    head_input: jax.Array
    """Flat vector entering the head, `[..., F]`: baseline after ReLU; MoE linear combined tokens; see
    `MixtureOutput` for BIG and ALL."""
    hidden: jax.Array
    """Penultimate ReLU activation: baseline `[..., 512·width]`, MoE the experts' `[..., E, P, H]`."""
    logits: jax.Array
    """`[..., A, Z]`: of each action's return distribution, or with Z = 1 its Q-value."""
    routing: Routing | None = None
    """How tokens were routed; None for a baseline."""


class Keys(NamedTuple):
    """What the parts of a network draw from: keys as in `noisy`, or None for no draw."""

    dense: jax.Array | None
    """Noise of the penultimate layer and the head. B16: one key for all of them."""
    experts: jax.Array | None
    """Noise of the experts."""
    router: jax.Array | None
    """Random Φ, noise of the router."""


class QNetwork(nn.Module):
    """Q-network of variant `spec`: parameters `encoder`, then `hidden` or `moe`, then `head`.

    BIG and ALL have everything in `moe`, but for a shared `head`.
    """

    spec: NetworkSpec
    num_actions: int
    head: HeadSpec

    @nn.compact
    def __call__(self, state: jax.Array, keys: jax.Array | None = None) -> NetworkOutput:
        """Evaluate `state` `[..., 84, 84, 4]`, newest frame last.

        Args:
            state: uint8 frames, or float32 intensities (frames / 255, possibly augmented).
            keys: source of a noisy network's noise and of a random Φ: a key per state, one key for
                all, or None for the noiseless network, whose random Φ is a fixed one. Consumed.
        """
        image = state.astype(jnp.float32) / 255.0 if state.dtype == jnp.uint8 else state
        own = self._keys(keys)
        parts = (self.spec, self.num_actions, self.head)
        logits = None
        match self.spec.expert_type:
            case ExpertType.REGULAR:
                head_input, hidden, routing = self._penultimate(build_encoder(self.spec)(image), own)
            case ExpertType.BIG:
                head_input, hidden, logits, routing = BigMixture(*parts, name="moe")(image, own.experts)
            case ExpertType.ALL:
                head_input, hidden, logits, routing = LayerMixtures(*parts, name="moe")(image, own.experts)
        if logits is None:
            logits = Head(self.head, self.num_actions, name="head")(head_input, own.dense)
        return NetworkOutput(q_values(self.head, logits), head_input, hidden, logits, routing)

    def _keys(self, keys: jax.Array | None) -> Keys:
        """Keys of the network's parts; None for what draws nothing."""
        if keys is None or not (self.head.noisy or self.spec.draws):
            return Keys(None, None, None)
        split = per_key(lambda key: jax.random.split(key, 3), keys)
        router = split[..., 2] if self.spec.draws else None
        return Keys(split[..., 0], split[..., 1], router) if self.head.noisy else Keys(None, None, router)

    def _penultimate(self, features: jax.Array, keys: Keys) -> tuple[jax.Array, jax.Array, Routing | None]:
        """Head input `[..., F]`, hidden activation and routing of `features` `[..., H, W, C]`."""
        batch = features.shape[:-3]
        if self.spec.tokens is None:
            layer = dense(self.head.noisy, self.spec.hidden_units * self.spec.width, "hidden")
            hidden = nn.relu(layer(features.reshape(*batch, -1), keys.dense))
            return hidden, hidden, None
        build = custom.build_moe if self.spec.custom else build_moe
        moe = build(self.spec, self.head.noisy)
        tokens = tokenise(features, self.spec.tokens)
        mixed = moe(tokens, keys.experts, keys.router)
        if self.spec.custom:
            custom.check_output(self.spec, tokens, mixed)
        return mixed.tokens.reshape(*batch, -1), mixed.hidden, mixed.routing


def build_network(spec: NetworkSpec, num_actions: int, head: HeadSpec | None = None) -> QNetwork:
    """The Q-network of variant `spec` for a game with `num_actions` actions; `head` defaults to DQN's."""
    return QNetwork(spec, num_actions, head or HeadSpec())
