"""DQN's targets, losses and updates on small numbers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moerl.agents.losses import td_loss, td_target
from moerl.agents.value import Batch, Learner, ValueAgent
from moerl.study.specs import AgentSpec, Loss, NetworkSpec

HYPER = AgentSpec(
    learning_rate=1e-3,
    adam_eps=1.5e-4,
    gamma=0.9,
    n_step=3,
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
NETWORK = NetworkSpec.model_validate({"encoder": "cnn", "module": "baseline", "hidden_units": 16})
AGENT = ValueAgent(HYPER, NETWORK, num_actions=3)
KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    return Batch(
        state=rng.integers(0, 256, (4, 4, 84, 84), dtype=np.uint8),
        action=np.array([0, 1, 2, 1], np.int32),
        reward=np.array([1, 0, -1, 0.5], np.float32),
        next_state=rng.integers(0, 256, (4, 4, 84, 84), dtype=np.uint8),
        terminal=np.array([False, True, False, False]),
    )


@pytest.fixture(scope="module")
def learner() -> Learner:
    return jax.jit(AGENT.init)(jax.random.key(0))


def test_td_target() -> None:
    assert float(td_target(jnp.float32(2.0), jnp.bool_(False), jnp.float32(10.0), 0.5)) == 7.0
    assert float(td_target(jnp.float32(2.0), jnp.bool_(True), jnp.float32(10.0), 0.5)) == 2.0


@pytest.mark.parametrize(
    ("loss", "delta", "value", "slope"),
    [
        (Loss.MSE, -3.0, 9.0, -6.0),
        (Loss.MSE, 0.5, 0.25, 1.0),
        (Loss.HUBER, 0.5, 0.125, 0.5),
        (Loss.HUBER, -3.0, 2.5, -1.0),
    ],
)
def test_td_loss(loss: Loss, delta: float, value: float, slope: float) -> None:
    assert jax.value_and_grad(lambda d: td_loss(d, loss))(delta) == (value, slope)


def test_targets_and_losses_follow_the_q_values(learner: Learner, batch: Batch) -> None:
    shifted = dataclasses.replace(learner, target_params=jax.tree.map(lambda x: 2 * x, learner.params))
    q_t = np.asarray(AGENT.evaluate(shifted.target_params, batch.next_state).q_values)
    expected = batch.reward + 0.9**3 * q_t.max(axis=1) * ~batch.terminal
    targets = AGENT.targets(shifted, batch)
    np.testing.assert_allclose(targets, expected, rtol=1e-6)
    q_tm1 = np.asarray(AGENT.evaluate(learner.params, batch.state).q_values)
    errors = expected - q_tm1[np.arange(4), batch.action]
    losses = AGENT.losses(learner.params, targets, batch)
    np.testing.assert_allclose(losses, errors**2, rtol=1e-4, atol=1e-6)
    mean = AGENT.loss(learner.params, targets, batch)
    assert float(mean) == pytest.approx(np.mean(errors**2), rel=1e-5)


def test_greedy_action_is_the_first_best(learner: Learner, batch: Batch) -> None:
    for state in batch.state:
        action = AGENT.greedy_action(learner.params, state)
        q_values = AGENT.evaluate(learner.params, state).q_values
        assert action.dtype == jnp.int32
        assert int(action) == int(np.argmax(q_values))
    tied = jax.tree.map(jnp.zeros_like, learner.params)
    assert int(AGENT.greedy_action(tied, batch.state[0])) == 0


def test_stacks_are_read_oldest_frame_first(learner: Learner, batch: Batch) -> None:
    """The network's last input channel is the newest frame."""
    direct = AGENT.network_module.apply({"params": learner.params}, np.moveaxis(batch.state[0], 0, -1))
    agents = AGENT.evaluate(learner.params, batch.state[0])
    np.testing.assert_allclose(agents.q_values, direct.q_values, rtol=0, atol=1e-6)


def test_adam_follows_its_definition() -> None:
    """Kingma and Ba's algorithm 1 in float64, epsilon outside the square root."""
    rng = np.random.default_rng(0)
    learner = AGENT.start({"w": jnp.zeros(50)})
    w, m, v = np.zeros(50), np.zeros(50), np.zeros(50)
    for t in range(1, 6):
        gradient = rng.normal(size=50) * 10.0 ** rng.uniform(-6, 2, 50)
        learner = AGENT.apply_gradients(learner, {"w": jnp.asarray(gradient, jnp.float32)})
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        w -= 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1.5e-4)
        # 1 - 0.999**t loses five digits in float32, as in the official code.
        np.testing.assert_allclose(learner.params["w"], w, rtol=0, atol=1e-5 * np.abs(w).max())


def test_update_is_one_adam_step_on_the_mean_loss(learner: Learner, batch: Batch) -> None:
    updated, result = jax.jit(AGENT.update)(learner, batch, KEY)
    targets = AGENT.targets(learner, batch)
    expected_loss, gradients = jax.value_and_grad(AGENT.loss)(learner.params, targets, batch)
    assert float(result.loss) == pytest.approx(float(expected_loss), rel=1e-5)
    adam = optax.adam(1e-3, eps=1.5e-4)
    steps, _ = adam.update(gradients, adam.init(learner.params))
    expected = optax.apply_updates(learner.params, steps)
    for found, wanted in zip(jax.tree.leaves(updated.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)
    for found, old in zip(
        jax.tree.leaves(updated.target_params), jax.tree.leaves(learner.target_params), strict=True
    ):
        np.testing.assert_array_equal(found, old)


def test_updates_reduce_the_loss_and_donation_changes_nothing(batch: Batch) -> None:
    plain = jax.jit(AGENT.update)
    donating = jax.jit(AGENT.update, donate_argnums=0)
    first, second = (jax.jit(AGENT.init)(jax.random.key(1)) for _ in range(2))
    losses = []
    for _ in range(5):
        first, result = plain(first, batch, KEY)
        second, _ = donating(second, batch, KEY)
        losses.append(float(result.loss))
    assert losses[-1] < losses[0]
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sync_copies_the_online_parameters(learner: Learner, batch: Batch) -> None:
    updated, _ = jax.jit(AGENT.update)(learner, batch, KEY)
    synced = jax.jit(AGENT.sync_target)(updated)
    for a, b in zip(jax.tree.leaves(synced.target_params), jax.tree.leaves(synced.params), strict=True):
        np.testing.assert_array_equal(a, b)
    # In its own buffers: donating the learner must not touch the target.
    jax.jit(AGENT.update, donate_argnums=0)(synced, batch, KEY)


def test_agents_are_values() -> None:
    """Equal hyper-parameters make equal agents, so compiled functions can be shared."""
    same = ValueAgent(HYPER.model_copy(), NETWORK.model_copy(), 3)
    assert same == AGENT
    assert hash(same) == hash(AGENT)
    assert ValueAgent(HYPER, NETWORK, 4) != AGENT
