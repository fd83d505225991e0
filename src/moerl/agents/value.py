"""The value agent DQN (Mnih et al. 2015; paper Table 2): action, target, loss, update.

Pure functions on frozen state. What concerns a single transition is written for one and mapped over
the batch; only the networks see the batch whole. The caller jits and donates: see `update`.

Axes: B batch, A actions. Suffixes: `tm1` the state acted in, `t` the state after the n-step window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import struct

from moerl.agents.losses import td_loss, td_target
from moerl.networks.q_network import NetworkOutput, QNetwork, build_network
from moerl.study.specs import STACK_SIZE, AgentSpec, NetworkSpec

FRAME_SHAPE = (84, 84)

Params = dict[str, Any]
"""Nested parameters of a Q-network, without flax's outer collection name."""


@struct.dataclass
class Batch:
    """Sampled transitions; the same type without the leading axis is one transition."""

    state: jax.Array
    """`[B, 4, 84, 84]` uint8, oldest frame first."""
    action: jax.Array
    """`[B]` int32."""
    reward: jax.Array
    """`[B]` float32, n-step return of clipped rewards."""
    next_state: jax.Array
    """`[B, 4, 84, 84]` uint8, oldest frame first."""
    terminal: jax.Array
    """`[B]` bool."""


@struct.dataclass
class Learner:
    """All that updates change."""

    params: Params
    target_params: Params
    opt_state: optax.OptState


@dataclass(frozen=True)
class ValueAgent:
    """A value agent's pure functions for one network variant and action count."""

    hyper: AgentSpec
    network: NetworkSpec
    num_actions: int

    @cached_property
    def network_module(self) -> QNetwork:
        """The Q-network; its parameters are what this class calls `params`."""
        return build_network(self.network, self.num_actions)

    @cached_property
    def optimiser(self) -> optax.GradientTransformation:
        """Adam with the paper's epsilon (outside the square root) and constant learning rate."""
        return optax.adam(self.hyper.learning_rate, b1=0.9, b2=0.999, eps=self.hyper.adam_eps)

    @property
    def _discount(self) -> float:
        """Multiplier of the bootstrap value: gamma ** n (method 4.6)."""
        return math.pow(self.hyper.gamma, self.hyper.n_step)

    def init(self, key: jax.Array) -> Learner:
        """A fresh learner; `key` is consumed by the parameters' initialisation."""
        state = jnp.zeros((*FRAME_SHAPE, STACK_SIZE), jnp.uint8)
        return self.start(self.network_module.init(key, state)["params"])

    def start(self, params: Params) -> Learner:
        """A learner with online parameters `params`, the same as target, and zero Adam moments.

        The target has its own buffers, so that the learner may be donated.
        """
        return Learner(params, jax.tree.map(jnp.copy, params), self.optimiser.init(params))

    def evaluate(self, params: Params, state: jax.Array) -> NetworkOutput:
        """Network outputs for `state` `[..., 4, 84, 84]` (uint8, oldest frame first)."""
        channels_last = jnp.moveaxis(state, -3, -1)
        return cast(NetworkOutput, self.network_module.apply({"params": params}, channels_last))

    def greedy_action(self, params: Params, state: jax.Array) -> jax.Array:
        """The action of highest Q-value (int32; ties to the lowest) in `state` `[4, 84, 84]`."""
        return jnp.argmax(self.evaluate(params, state).q_values).astype(jnp.int32)

    def target_one(self, q_t: jax.Array, transition: Batch) -> jax.Array:
        """Bootstrap target (scalar) of one `transition`; `q_t` `[A]` is the target network's."""
        return td_target(transition.reward, transition.terminal, jnp.max(q_t), self._discount)

    def loss_one(self, q_tm1: jax.Array, target: jax.Array, transition: Batch) -> jax.Array:
        """TD loss (scalar) of one `transition`; `q_tm1` `[A]` is the online network's."""
        return td_loss(target - q_tm1[transition.action], self.hyper.loss)

    def targets(self, learner: Learner, batch: Batch) -> jax.Array:
        """Bootstrap targets `[B]` of a batch."""
        q_t = self.evaluate(learner.target_params, batch.next_state).q_values
        return jax.vmap(self.target_one)(q_t, batch)

    def losses(self, params: Params, targets: jax.Array, batch: Batch) -> jax.Array:
        """TD losses `[B]` of a batch against fixed `targets` `[B]`."""
        q_tm1 = self.evaluate(params, batch.state).q_values
        return jax.vmap(self.loss_one)(q_tm1, targets, batch)

    def loss(self, params: Params, targets: jax.Array, batch: Batch) -> jax.Array:
        """Mean TD loss (scalar) of a batch against fixed `targets` `[B]`."""
        return jnp.mean(self.losses(params, targets, batch))

    def update(self, learner: Learner, batch: Batch) -> tuple[Learner, jax.Array]:
        """One gradient step; returns the learner after it and the loss before it (scalar).

        Donate `learner` when jitting: the step then runs in place.
        """
        targets = self.targets(learner, batch)
        loss, gradients = jax.value_and_grad(self.loss)(learner.params, targets, batch)
        return self.apply_gradients(learner, gradients), loss

    def apply_gradients(self, learner: Learner, gradients: Params) -> Learner:
        """The learner after one Adam step along `gradients` (shaped like its parameters)."""
        updates, opt_state = self.optimiser.update(gradients, learner.opt_state, learner.params)
        params = optax.apply_updates(learner.params, updates)
        return replace(learner, params=params, opt_state=opt_state)

    def sync_target(self, learner: Learner) -> Learner:
        """The learner with its target parameters set to the online ones (hard copy).

        The copy has its own buffers, so that the learner may be donated afterwards.
        """
        return replace(learner, target_params=jax.tree.map(jnp.copy, learner.params))
