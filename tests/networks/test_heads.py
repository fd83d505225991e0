"""Heads: dueling combination, support, values of distributions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moerl.networks.heads import Head, q_values, support
from moerl.study.specs import HeadSpec

C51 = HeadSpec(dueling=True, num_atoms=3, v_max=10.0)


def test_support_is_even_and_symmetric():
    np.testing.assert_allclose(
        support(HeadSpec(num_atoms=51, v_max=10.0)), np.linspace(-10, 10, 51), atol=1e-6
    )
    with pytest.raises(ValueError, match="scalar"):
        support(HeadSpec())


def test_q_values_are_the_means_of_the_distributions():
    logits = jnp.log(jnp.array([[0.25, 0.25, 0.5], [1.0, 1e-30, 1e-30]]))
    np.testing.assert_allclose(q_values(C51, logits), [2.5, -10.0], rtol=1e-6)
    np.testing.assert_array_equal(q_values(HeadSpec(), jnp.array([[3.0], [4.0]])), [3.0, 4.0])


def test_dueling_centres_advantages_per_atom():
    head, x = Head(C51, 2), jnp.array([[1.0, 2.0]])
    params = {
        "advantage": {"kernel": jnp.zeros((2, 6)), "bias": jnp.array([1.0, 2.0, 3.0, 5.0, 2.0, 1.0])},
        "value": {
            "kernel": jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
            "bias": jnp.array([0.0, 0.0, 7.0]),
        },
    }
    logits = head.apply({"params": params}, x, None)
    # value (1, 2, 7) plus advantages minus their mean (3, 2, 2) over the two actions
    np.testing.assert_allclose(logits[0], [[-1.0, 2.0, 8.0], [3.0, 2.0, 6.0]], rtol=1e-6)


def test_head_without_dueling_is_one_layer():
    shapes = jax.eval_shape(Head(HeadSpec(), 4).init, jax.random.key(0), jnp.zeros((2, 8)), None)["params"]
    assert shapes["q"]["kernel"].shape == (8, 4)
    assert set(shapes) == {"q"}
