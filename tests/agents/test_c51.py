"""Projection, cross-entropy and double-Q targets: small cases by hand, and what holds for any."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moerl.agents.losses import cross_entropy, project, td_loss
from moerl.agents.value import Batch, ValueAgent
from moerl.study.specs import AgentSpec, Loss, NetworkSpec

SUPPORT = jnp.array([-2.0, -1.0, 0.0, 1.0, 2.0])
NETWORK = NetworkSpec.model_validate({"encoder": "cnn", "module": "baseline", "hidden_units": 8})
DQN = {
    "learning_rate": 1e-3,
    "adam_eps": 1.5e-4,
    "gamma": 0.5,
    "n_step": 2,
    "batch_size": 4,
    "replay_capacity": 100,
    "min_replay_history": 10,
    "update_period": 4,
    "updates_per_period": 1,
    "target_update_period": 8,
    "epsilon_train": 0.01,
    "epsilon_decay_period": 100,
    "loss": "mse",
    "sticky_actions": 0.25,
    "max_episode_steps": 100,
}


def agent(**switches) -> ValueAgent:
    return ValueAgent(AgentSpec.model_validate(DQN | switches), NETWORK, 3)


@pytest.mark.parametrize(
    ("atoms", "probabilities", "expected"),
    [
        # On the support: nothing moves.
        ([-2, -1, 0, 1, 2], [0.1, 0.2, 0.3, 0.1, 0.3], [0.1, 0.2, 0.3, 0.1, 0.3]),
        # A quarter of the way from 0 to 1, all mass: three quarters stay at 0.
        ([0.25] * 5, [0.2] * 5, [0, 0, 0.75, 0.25, 0]),
        # Beyond both ends.
        ([-7, -2.5, 0, 3, 9], [0.1, 0.2, 0.3, 0.1, 0.3], [0.3, 0, 0.3, 0, 0.4]),
        # r = 0.5, discount 0.5: atoms at -0.5, 0, 0.5, 1, 1.5.
        ([-0.5, 0, 0.5, 1, 1.5], [0.2] * 5, [0, 0.1, 0.4, 0.4, 0.1]),
    ],
)
def test_projection_by_hand(atoms, probabilities, expected):
    found = project(jnp.array(atoms, jnp.float32), jnp.array(probabilities), SUPPORT)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(
    arrays(np.float32, 51, elements=st.floats(-50, 50, width=32)),
    arrays(np.float32, 51, elements=st.floats(0, 1, width=32)),
)
def test_projection_keeps_mass_and_clipped_mean(atoms, mass):
    support = jnp.linspace(-10.0, 10.0, 51)
    probabilities = (mass + 1e-3) / (mass + 1e-3).sum()
    found = np.asarray(_project(atoms, probabilities, support))
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-5)
    # Sharing mass between neighbours in proportion to nearness keeps the mean.
    mean = float((np.clip(atoms, -10, 10) * probabilities).sum())
    assert float((found * np.asarray(support)).sum()) == pytest.approx(mean, abs=1e-3)


_project = jax.jit(project)


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([0.5, 0.25, 0.25]))
    assert float(cross_entropy(jnp.array([1.0, 0.0, 0.0]), logits)) == pytest.approx(np.log(2))
    assert float(cross_entropy(jnp.array([0.5, 0.5, 0.0]), logits)) == pytest.approx(1.5 * np.log(2))
    with pytest.raises(ValueError, match="distributions"):
        td_loss(jnp.float32(0), Loss.C51)


def transition(reward: float, terminal: bool) -> Batch:
    frame = np.zeros((4, 84, 84), np.uint8)
    return Batch(frame, np.int32(1), np.float32(reward), frame, np.bool_(terminal))


def test_double_q_takes_the_selectors_action_and_the_targets_value():
    target_values, selector = jnp.array([[1.0], [2.0], [9.0]]), jnp.array([0.0, 5.0, 4.0])
    one = agent(double=True)
    assert float(one.target_one(target_values, selector, transition(1, False))) == 1 + 0.25 * 2
    assert float(one.target_one(target_values, selector, transition(1, True))) == 1


def test_which_network_selects():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 4, 84, 84), dtype=np.uint8)
    batch = Batch(frames, np.zeros(4, np.int32), np.zeros(4, np.float32), frames, np.zeros(4, bool))
    double, single = agent(double=True), agent(double=False)
    learner = double.init(jax.random.key(0))
    learner = learner.replace(target_params=jax.tree.map(lambda x: -x, learner.params))
    online = np.asarray(double.evaluate(learner.params, frames).q_values)
    target = np.asarray(double.evaluate(learner.target_params, frames).q_values)
    chosen = target[np.arange(4), online.argmax(axis=1)]
    assert (chosen != target.max(axis=1)).any()
    np.testing.assert_allclose(double.targets(learner, batch), 0.25 * chosen, rtol=1e-5)
    np.testing.assert_allclose(single.targets(learner, batch), 0.25 * target.max(axis=1), rtol=1e-5)


def test_c51_target_by_hand():
    c51 = agent(loss="c51", num_atoms=5, v_max=2.0, double=True)
    probabilities = jnp.array([[0.2] * 5, [0.1, 0.2, 0.4, 0.2, 0.1], [0.05, 0.05, 0.05, 0.05, 0.8]])
    logits, selector = jnp.log(probabilities), jnp.array([1.0, 0.0, 0.0])
    # reward 0.5, discount 0.5 ** 2: atoms at 0, 0.25, 0.5, 0.75, 1, a fifth each.
    found = c51.target_one(logits, selector, transition(0.5, False))
    np.testing.assert_allclose(found, [0, 0, 0.5, 0.5, 0], atol=1e-6)
    # A terminal puts all mass on the reward.
    np.testing.assert_allclose(
        c51.target_one(logits, selector, transition(1.5, True)), [0, 0, 0, 0.5, 0.5], atol=1e-6
    )


def test_weights_scale_the_loss_and_not_the_priorities():
    prioritised = agent(
        loss="c51", num_atoms=5, v_max=2.0, double=True, dueling=True, noisy=True, replay="prioritised"
    )
    rng = np.random.default_rng(1)
    states, next_states = rng.integers(0, 256, (2, 4, 4, 84, 84), dtype=np.uint8)
    fields = (
        states,
        np.arange(4, dtype=np.int32) % 3,
        np.ones(4, np.float32),
        next_states,
        np.zeros(4, bool),
    )
    weight = np.array([1, 0.5, 0.25, 0], np.float32)
    learner = prioritised.init(jax.random.key(0))
    update = jax.jit(prioritised.update)
    key = jax.random.key(2)
    _, plain = update(learner, Batch(*fields), key)
    _, weighted = update(learner, Batch(*fields, weight), key)
    np.testing.assert_allclose(plain.priorities, weighted.priorities, rtol=1e-5)
    losses = np.asarray(plain.priorities) ** 2
    assert float(plain.loss) == pytest.approx(losses.mean(), rel=1e-5)
    assert float(weighted.loss) == pytest.approx((weight * losses).mean(), rel=1e-5)
    _, other = update(learner, Batch(*fields), jax.random.key(3))
    assert not np.allclose(other.priorities, plain.priorities)  # another noise
