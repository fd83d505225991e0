"""The pooling's own backward pass against XLA's."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moerl.networks.pooling import max_pool


def reference(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")


@pytest.mark.parametrize("shape", [(2, 84, 84, 3), (42, 42, 2), (2, 3, 21, 21, 2), (5, 8, 1)])
@pytest.mark.parametrize("levels", [2, 1000])
def test_values_and_gradients_equal_xla_bit_for_bit(shape: tuple[int, ...], levels: int) -> None:
    """Two levels make most windows tie."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-levels, levels, shape), jnp.float32)
    values, backward = jax.vjp(max_pool, x)
    expected, expected_backward = jax.vjp(reference, x)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(max_pool(x), expected)
    gradient = jnp.asarray(rng.integers(-9, 9, values.shape), jnp.float32)
    np.testing.assert_array_equal(backward(gradient)[0], expected_backward(gradient)[0])


def test_a_tie_sends_the_gradient_to_the_first_maximum() -> None:
    gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.zeros((4, 4, 1)))
    # Windows start at rows and columns 0 and 2 and run over the lower and right edge.
    expected = np.zeros((4, 4))
    expected[::2, ::2] = 1
    np.testing.assert_array_equal(gradient[..., 0], expected)


def test_maps_over_a_batch_axis() -> None:
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 7, 6, 2)), jnp.float32)

    def per_sample(image: jax.Array) -> jax.Array:
        return jax.grad(lambda y: jnp.sum(max_pool(y) ** 2))(image)

    whole = jax.grad(lambda y: jnp.sum(max_pool(y) ** 2))(x)
    np.testing.assert_allclose(jax.vmap(per_sample)(x), whole, rtol=1e-6)
