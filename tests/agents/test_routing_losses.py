"""What routing adds to an update: load-balancing losses, random Φ, and what it leaves alone."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moerl.agents.value import Batch, Draw, Learner, ValueAgent
from moerl.networks.balance import importance_loss, load_loss
from moerl.study.specs import AgentSpec, Loss, NetworkSpec

HYPER = AgentSpec(
    learning_rate=1e-2,
    adam_eps=1.5e-4,
    gamma=0.9,
    n_step=1,
    batch_size=4,
    replay_capacity=100,
    min_replay_history=10,
    update_period=4,
    updates_per_period=1,
    target_update_period=8,
    epsilon_train=0.01,
    epsilon_decay_period=100,
    loss=Loss.MSE,
    sticky_actions=0.25,
    max_episode_steps=100,
)
KEY = jax.random.key(1)


def agent(hyper: AgentSpec = HYPER, **fields: object) -> ValueAgent:
    small = {"encoder": "cnn", "module": "softmoe", "num_experts": 2, "hidden_units": 8, "tokens": "perconv"}
    return ValueAgent(hyper, NetworkSpec.model_validate(small | fields), num_actions=3)


def start(value_agent: ValueAgent) -> Learner:
    return jax.jit(value_agent.init)(jax.random.key(0))


def skewed(value_agent: ValueAgent) -> Learner:
    """A learner whose router prefers the first expert: tokens are not negative."""
    params = start(value_agent).params
    params["moe"]["router"]["kernel"] = jnp.broadcast_to(jnp.array([[1.0, -1.0]]), (64, 2))
    return value_agent.start(params)


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    return Batch(
        state=rng.integers(0, 256, (4, 4, 84, 84), dtype=np.uint8),
        action=np.array([0, 1, 2, 1], np.int32),
        reward=np.array([1, 0, -1, 0.5], np.float32),
        next_state=rng.integers(0, 256, (4, 4, 84, 84), dtype=np.uint8),
        terminal=np.array([False, True, False, False]),
        weight=np.array([1.0, 0.5, 0.25, 0.5], np.float32),
    )


def test_balance_losses_are_added_with_their_weights_and_touch_no_priority(batch: Batch) -> None:
    plain = agent(module="top1")
    weighted = agent(module="top1", importance_weight=0.5, load_weight=0.25, load_noise=2.0)
    learner = skewed(plain)
    _, without = jax.jit(plain.update)(learner, batch, KEY)
    _, balanced = jax.jit(weighted.update)(learner, batch, KEY)
    routing = plain.evaluate(learner.params, batch.state).routing
    assert routing is not None
    draw = jax.random.normal(jax.random.fold_in(KEY, Draw.BALANCE), routing.logits.shape)
    importance = float(jnp.mean(importance_loss(routing.gates)))
    load = float(jnp.mean(load_loss(routing.logits, draw, 2.0 / 2)))
    assert importance > 0.01
    assert load > 0.001
    expected = float(without.loss) + 0.5 * importance + 0.25 * load
    assert float(balanced.loss) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(balanced.priorities, without.priorities, rtol=1e-5)
    targets = weighted.targets(learner, batch)
    assert float(weighted.loss(learner.params, targets, batch)) == pytest.approx(
        float(without.loss), rel=1e-5
    )


def test_balance_losses_balance(batch: Batch) -> None:
    """After a few updates that hardly care about anything else."""
    slow = HYPER.model_copy(update={"learning_rate": 1e-3})
    value_agent = agent(slow, module="top1", importance_weight=1e2)
    learner, update = skewed(value_agent), jax.jit(value_agent.update)

    def unevenness(learner: Learner) -> float:
        routing = value_agent.evaluate(learner.params, batch.state).routing
        assert routing is not None
        return float(jnp.mean(importance_loss(routing.gates)))

    before = unevenness(learner)
    for step in range(15):
        learner, _ = update(learner, batch, jax.random.fold_in(KEY, step))
    assert before > 0.5
    assert unevenness(learner) < 1e-3


def test_a_frozen_phi_stays_to_the_bit_and_the_rest_learns(batch: Batch) -> None:
    value_agent = agent(phi="frozen")
    first = start(value_agent)
    learner, update = first, jax.jit(value_agent.update)
    for step in range(3):
        learner, _ = update(learner, batch, jax.random.fold_in(KEY, step))
    before, after = first.params["moe"], learner.params["moe"]
    np.testing.assert_array_equal(before["phi"], after["phi"])
    assert not np.array_equal(before["experts"]["hidden"]["kernel"], after["experts"]["hidden"]["kernel"])


def test_a_random_phi_is_drawn_for_each_action_and_update(batch: Batch) -> None:
    value_agent = agent(phi="redraw")
    assert value_agent.draws
    assert not agent().draws
    learner = start(value_agent)
    evaluate = jax.jit(value_agent.evaluate)
    state = batch.state[0]
    q_values = [evaluate(learner.params, state, jax.random.key(k)).q_values for k in (0, 0, 1)]
    np.testing.assert_array_equal(q_values[0], q_values[1])
    assert not np.allclose(q_values[0], q_values[2])
    update = jax.jit(value_agent.update)
    losses = [float(update(learner, batch, jax.random.key(k))[1].loss) for k in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("double", [False, True])
def test_targets_draw_for_each_transition_without_double_q_learning_b9(batch: Batch, double: bool) -> None:
    """DQN's published targets draw for each transition, Rainbow's once for the batch (B17)."""
    value_agent = agent(HYPER.model_copy(update={"double": double}), phi="redraw")
    learner = start(value_agent)
    same = dataclasses.replace(
        batch,
        next_state=np.broadcast_to(batch.next_state[:1], batch.next_state.shape),
        reward=np.zeros(4, np.float32),
        terminal=np.zeros(4, bool),
    )
    targets = np.asarray(jax.jit(value_agent.targets)(learner, same, KEY))
    assert np.allclose(targets, targets[0], rtol=1e-4) == double
