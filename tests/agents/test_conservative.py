"""The conservative penalty of CQL and of CQL + C51, by hand, against slow NumPy and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_value import HYPER, NETWORK

from moerl.agents.losses import conservative_penalty
from moerl.agents.value import Batch, ValueAgent
from moerl.study.specs import AgentSpec, Loss, identity

CQL = HYPER.model_copy(update={"loss": Loss.HUBER, "n_step": 1, "cql_weight": 0.1})
C51 = {"loss": Loss.C51, "num_atoms": 5, "v_max": 2.0, "dueling": True, "double": True}
CQL_C51 = HYPER.model_copy(update=C51 | {"cql_weight": 0.1})


@pytest.mark.parametrize(
    ("q_values", "action", "expected"),
    [
        ([0.0, 0.0, 0.0, 0.0], 2, np.log(4)),  # all alike: the logarithm of their number
        ([1.0, 1.0 + np.log(3)], 0, np.log(4)),  # e + 3e = 4e, less 1
        ([1.0, 1.0 + np.log(3)], 1, np.log(4 / 3)),
        ([100.0, 0.0], 0, 0.0),
        ([1000.0, 0.0], 1, 1000.0),  # does not overflow
    ],
)
def test_penalty_by_hand(q_values: list[float], action: int, expected: float) -> None:
    found = conservative_penalty(jnp.array(q_values), jnp.int32(action))
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_its_slope_is_the_softmax_less_the_taken_action() -> None:
    q_values = jnp.array([0.3, -1.0, 2.0])
    slope = jax.grad(conservative_penalty)(q_values, 1)
    np.testing.assert_allclose(slope, jax.nn.softmax(q_values) - jnp.eye(3)[1], atol=1e-6)


def transition(action: int) -> Batch:
    frame = np.zeros((4, 84, 84), np.uint8)
    return Batch(frame, np.int32(action), np.float32(0), frame, np.bool_(False))


def test_cql_is_hubers_loss_and_a_tenth_of_the_penalty() -> None:
    logits, agent = jnp.array([[0.0], [np.log(3)], [-40.0]]), ValueAgent(CQL, NETWORK, 3)
    # δ = 0.5 - 0: ½ · 0.25; the others' exponentials are 1, 3 and nothing.
    found = agent.loss_one(logits, jnp.float32(0.5), transition(0))
    assert float(found) == pytest.approx(0.125 + 0.1 * np.log(4), abs=1e-6)
    # δ = 4: beyond the bend
    found = agent.loss_one(logits, jnp.float32(np.log(3) + 4), transition(1))
    assert float(found) == pytest.approx(3.5 + 0.1 * np.log(4 / 3), abs=1e-6)


def test_with_c51_the_penalty_is_on_the_means_of_the_distributions() -> None:
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(3, 5)), np.array([0.1, 0.2, 0.4, 0.2, 0.1])
    exponentials = np.exp(logits)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    means = probabilities @ np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    for action in range(3):
        expected = -(target * np.log(probabilities[action])).sum()
        expected += 0.1 * (np.log(np.exp(means).sum()) - means[action])
        found = ValueAgent(CQL_C51, NETWORK, 3).loss_one(
            jnp.float32(logits), jnp.float32(target), transition(action)
        )
        assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("hyper", [CQL, CQL_C51], ids=["cql", "cql_c51"])
def test_gradients_are_finite_differences(hyper: AgentSpec) -> None:
    agent = ValueAgent(hyper, NETWORK, 3)
    rng = np.random.default_rng(1)
    atoms = hyper.num_atoms
    logits, direction = rng.normal(size=(2, 3, atoms))
    target = jnp.float32(rng.dirichlet(np.ones(atoms))) if atoms > 1 else jnp.float32(0.3)

    def loss(at: jax.Array) -> jax.Array:
        return agent.loss_one(at, target, transition(2))

    step = 1e-2  # float32: the quotient's error is about 1e-5 for a loss around one
    slope = (loss(jnp.float32(logits + step * direction)) - loss(jnp.float32(logits - step * direction))) / (
        2 * step
    )
    analytic = jnp.sum(jax.grad(loss)(jnp.float32(logits)) * direction)
    assert float(analytic) == pytest.approx(float(slope), abs=2e-4)


def test_an_update_pushes_down_what_was_not_tried() -> None:
    """On one repeated transition, Q-values of the untried actions fall below those without the penalty."""
    rng = np.random.default_rng(2)
    frames = rng.integers(0, 256, (4, 4, 84, 84), dtype=np.uint8)
    batch = Batch(frames, np.zeros(4, np.int32), np.zeros(4, np.float32), frames, np.ones(4, bool))
    gaps = []
    for weight in (0.0, 1.0):
        agent = ValueAgent(CQL.model_copy(update={"cql_weight": weight}), NETWORK, 3)
        learner, update = agent.init(jax.random.key(0)), jax.jit(agent.update)
        for _ in range(5):
            learner, _ = update(learner, batch, jax.random.key(1))
        q_values = agent.evaluate(learner.params, frames).q_values
        gaps.append(float(jnp.mean(q_values[:, 1:] - q_values[:, :1])))
    assert gaps[1] < gaps[0] - 0.01


def test_without_it_an_agent_is_identified_as_before() -> None:
    assert "cql_weight" not in identity("hyper", HYPER)
    assert identity("hyper", CQL)["cql_weight"] == 0.1
