"""Value agents, one family: DQN, Rainbow, DER, DrQ(ε) (paper Tables 1 and 2): targets, losses, update.

`AgentSpec` says what an agent is: with all switches off it is DQN (Mnih et al. 2015); noisy layers,
dueling heads, double Q-learning, return distributions (C51) and importance weights of prioritised
replay make it Rainbow (Hessel et al. 2018). A conservative penalty makes either of them CQL's (Kumar et
al. 2020).

Pure functions on frozen state. What concerns a single transition is written for one and mapped over
the batch; only the networks see the batch whole. The caller jits and donates: see `update`.

Axes: B batch, A actions, Z atoms (1 for scalar values). Suffixes: `tm1` the state acted in, `t` the
state after the n-step window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import struct

from moerl.agents.augmentation import augment
from moerl.agents.losses import conservative_penalty, cross_entropy, project, td_loss, td_target
from moerl.networks.balance import balance_loss
from moerl.networks.heads import q_values, support
from moerl.networks.q_network import NetworkOutput, QNetwork, build_network
from moerl.study.specs import STACK_SIZE, AgentSpec, Augmentation, Loss, NetworkSpec

FRAME_SHAPE = (84, 84)

PRIORITY_EPSILON = 1e-10
"""Added to a loss before its root becomes a priority (method 4.3)."""

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
    weight: jax.Array | None = None
    """`[B]` float32, importance weights of prioritised replay; None: all equal."""


@struct.dataclass
class Learner:
    """All that updates change."""

    params: Params
    target_params: Params
    opt_state: optax.OptState


class Draw(IntEnum):
    """What an update draws; each draw's key is the update's key folded with its number."""

    ONLINE = 1
    """Noise and random Φ of the online network in the loss, a key per transition."""
    TARGET = 2
    """Those of the next states' values: one key for the batch (DQN: a key per transition)."""
    STATE = 3
    """Augmentation of the states."""
    NEXT_STATE = 4
    """Augmentation of the next states."""
    BALANCE = 5
    """Noise of the load loss, one key for the batch."""


@struct.dataclass
class UpdateResult:
    """What an update tells besides the new learner."""

    loss: jax.Array
    """What was minimised, before the step, scalar: see `ValueAgent.objective`."""
    priorities: jax.Array
    """New priorities of the batch's transitions, `[B]`: the root of each one's own loss before the step."""


@dataclass(frozen=True)
class ValueAgent:
    """A value agent's pure functions for one network variant and action count."""

    hyper: AgentSpec
    network: NetworkSpec
    num_actions: int

    @cached_property
    def network_module(self) -> QNetwork:
        """The Q-network; its parameters are what this class calls `params`."""
        return build_network(self.network, self.num_actions, self.hyper.head)

    @cached_property
    def optimiser(self) -> optax.GradientTransformation:
        """Adam with the paper's epsilon (outside the square root) and constant learning rate."""
        return optax.adam(self.hyper.learning_rate, b1=0.9, b2=0.999, eps=self.hyper.adam_eps)

    @property
    def draws(self) -> bool:
        """Whether the network draws at every call in training, so that its callers need keys."""
        return self.hyper.noisy or self.network.draws

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

    def evaluate(self, params: Params, state: jax.Array, keys: jax.Array | None = None) -> NetworkOutput:
        """Network outputs for `state` `[..., 4, 84, 84]`, oldest frame first.

        `state` holds uint8 frames or augmented intensities. A noisy network's noise and a random Φ
        are drawn from `keys`: a key per state, one for all, or None for no noise and a fixed Φ.
        """
        channels_last = jnp.moveaxis(state, -3, -1)
        return cast(NetworkOutput, self.network_module.apply({"params": params}, channels_last, keys))

    def greedy_action(self, params: Params, state: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The action of highest Q-value (int32; ties to the lowest) in each `state` `[..., 4, 84, 84]`.

        An agent that `draws` acts under the noise and random Φ of `key`, fresh for each step in
        training. In evaluation it is None: no noise, and one fixed Φ for all steps.
        """
        return jnp.argmax(self.evaluate(params, state, key).q_values, axis=-1).astype(jnp.int32)

    def target_one(self, logits_t: jax.Array, selector_t: jax.Array, transition: Batch) -> jax.Array:
        """Bootstrap target of one `transition`: a scalar, or with C51 a distribution `[Z]`.

        Args:
            logits_t: the target network's values of the next state, `[A, Z]`.
            selector_t: Q-values `[A]` whose largest chooses the next action.
            transition: the transition.
        """
        chosen = logits_t[jnp.argmax(selector_t)]
        if self.hyper.loss is Loss.C51:
            atoms = support(self.hyper)
            moved = td_target(transition.reward, transition.terminal, atoms, self._discount)
            return project(moved, jax.nn.softmax(chosen), atoms)
        return td_target(transition.reward, transition.terminal, chosen[0], self._discount)

    def loss_one(self, logits_tm1: jax.Array, target: jax.Array, transition: Batch) -> jax.Array:
        """Loss (scalar) of one `transition`; `logits_tm1` `[A, Z]` is the online network's."""
        predicted = logits_tm1[transition.action]
        if self.hyper.loss is Loss.C51:
            loss = cross_entropy(target, predicted)
        else:
            loss = td_loss(target - predicted[0], self.hyper.loss)
        if self.hyper.cql_weight:
            penalty = conservative_penalty(q_values(self.hyper, logits_tm1), transition.action)
            loss = loss + self.hyper.cql_weight * penalty
        return loss

    def targets(self, learner: Learner, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """Bootstrap targets `[B]`, or with C51 `[B, Z]`, of a batch; no gradient flows into them.

        B17: one noise and random Φ, drawn from `key`, for the whole batch and both networks (None: no
        noise). DQN, without a second network, draws for each transition, as published.
        """
        keys = key
        if key is not None and not self.hyper.double:
            keys = jax.random.split(key, batch.action.shape[0])
        valued = self.evaluate(learner.target_params, batch.next_state, keys)
        selector = valued
        if self.hyper.double:
            selector = self.evaluate(learner.params, batch.next_state, keys)
        return jax.vmap(self.target_one)(valued.logits, selector.q_values, batch)

    def losses(
        self, params: Params, targets: jax.Array, batch: Batch, keys: jax.Array | None = None
    ) -> jax.Array:
        """Unweighted losses `[B]` of a batch against fixed `targets`; `keys` as in `evaluate`."""
        logits_tm1 = self.evaluate(params, batch.state, keys).logits
        return jax.vmap(self.loss_one)(logits_tm1, targets, batch)

    def loss(
        self, params: Params, targets: jax.Array, batch: Batch, keys: jax.Array | None = None
    ) -> jax.Array:
        """Mean loss (scalar) of a batch, weighted by `batch.weight`, against fixed `targets`."""
        return self._weighted_mean(self.losses(params, targets, batch, keys), batch)

    def objective(
        self,
        params: Params,
        targets: jax.Array,
        batch: Batch,
        keys: jax.Array | None,
        balance_key: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """What an update minimises (scalar), and the unweighted losses `[B]`, which make priorities.

        It is `loss`, plus the variant's load-balancing losses, which importance weights do not touch
        (method 3.4); their noise is drawn from `balance_key`.
        """
        outputs = self.evaluate(params, batch.state, keys)
        losses = jax.vmap(self.loss_one)(outputs.logits, targets, batch)
        total = self._weighted_mean(losses, batch)
        if self.network.balanced and outputs.routing is not None:
            total = total + balance_loss(self.network, outputs.routing, balance_key)
        return total, losses

    def _weighted_mean(self, losses: jax.Array, batch: Batch) -> jax.Array:
        return jnp.mean(losses if batch.weight is None else batch.weight * losses)

    def augmented(self, batch: Batch, key: jax.Array) -> Batch:
        """The batch with its states and next states augmented, independently, if the agent does so."""
        match self.hyper.augmentation:
            case Augmentation.NONE:
                return batch
            case Augmentation.DRQ:
                return replace(
                    batch,
                    state=augment(jax.random.fold_in(key, Draw.STATE), batch.state),
                    next_state=augment(jax.random.fold_in(key, Draw.NEXT_STATE), batch.next_state),
                )

    def update(self, learner: Learner, batch: Batch, key: jax.Array) -> tuple[Learner, UpdateResult]:
        """One gradient step; `key` is consumed by what it draws (see `Draw`), if anything.

        Donate `learner` when jitting: the step then runs in place.
        """
        batch = self.augmented(batch, key)
        target_key = online_keys = None
        if self.draws:
            target_key = jax.random.fold_in(key, Draw.TARGET)
            # B17: a noise of its own for each transition.
            online_keys = jax.random.split(jax.random.fold_in(key, Draw.ONLINE), batch.action.shape[0])
        targets = self.targets(learner, batch, target_key)
        balance_key = jax.random.fold_in(key, Draw.BALANCE)
        gradient = jax.value_and_grad(self.objective, has_aux=True)
        (loss, losses), gradients = gradient(learner.params, targets, batch, online_keys, balance_key)
        result = UpdateResult(loss, jnp.sqrt(losses + PRIORITY_EPSILON))
        return self.apply_gradients(learner, gradients), result

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
