"""Noisy dense layers with factorised Gaussian noise (Fortunato et al. 2018, equations 8 to 11).

A layer's weights are μ + σ·(f(p) ⊗ f(q)) with one noise pair (p, q) per state. They are never made
for each state: `x @ (μ + σ·(f(p) ⊗ f(q)))` is `x @ μ + ((x·f(p)) @ σ)·f(q)`, two products that the
whole batch shares (method 2.3).

Noise comes from an array of keys: one key per state, or a single key (shape `[]`) whose noise all
states share, or None for no noise. Axes: I inputs, O outputs; leading axes (`...`) are batch axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import constant, xavier_uniform
from jax.nn.initializers import Initializer

SIGMA_0 = 0.1
"""σ starts at this over √I. B16: Fortunato et al. use 0.5."""


SIGMAS = ("kernel_sigma", "bias_sigma")
"""Names of a layer's parameters that only noise multiplies."""


class Noise(NamedTuple):
    """The factors of one layer's noise; leading axes are those of the keys."""

    inputs: jax.Array
    """f(p) `[..., I]`"""
    outputs: jax.Array
    """f(q) `[..., O]`"""


def per_key(function: Callable[[jax.Array], jax.Array], keys: jax.Array) -> jax.Array:
    """`function` of each key in an array of keys of any shape, `[]` included."""
    for _ in range(keys.ndim):
        function = jax.vmap(function)
    return function(keys)


def draw_normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normals `[..., *shape]`, a draw for each of `keys` `[...]`."""
    return per_key(lambda key: jax.random.normal(key, shape), keys)


def _factor(keys: jax.Array, stream: int, size: int) -> jax.Array:
    """f of `size` standard normals for each key, where f(x) = sign(x)·√|x|.

    B16: layers are given one and the same key. Under the generator of the paper's time this made
    their draws equal where they are as long, and independent otherwise; JAX's present one would let
    shorter draws repeat the beginning of longer ones. Folding in the size keeps the former.
    """

    def draw(key: jax.Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.split(key)[stream], size)
        return jax.random.normal(own, (size,))

    normal = per_key(draw, keys)
    return jnp.sign(normal) * jnp.sqrt(jnp.abs(normal))


def draw_noise(keys: jax.Array, inputs: int, outputs: int) -> Noise:
    """The noise of a layer `[inputs, outputs]` for each of `keys`."""
    return Noise(_factor(keys, 0, inputs), _factor(keys, 1, outputs))


def aligned(factor: jax.Array, ndim: int) -> jax.Array:
    """`factor` `[..., N]` with axes of length 1 before N, `ndim` axes in all."""
    return factor.reshape(*factor.shape[:-1], *(1,) * (ndim - factor.ndim), factor.shape[-1])


def uniform_mu(inputs: int) -> nn.initializers.Initializer:
    """Initialiser of μ, kernel and bias alike: U(-1/√I, 1/√I)."""
    bound = inputs**-0.5

    def initialise(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialise


def constant_sigma(inputs: int) -> nn.initializers.Initializer:
    """Initialiser of σ, kernel and bias alike: 0.1/√I."""
    return constant(SIGMA_0 * inputs**-0.5)


class NoisyDense(nn.Module):
    """A noisy dense layer; parameters `kernel_mu`, `kernel_sigma` `[I, O]`, `bias_mu`, `bias_sigma` `[O]`."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Map `x` `[..., I]` to `[..., O]` under the noise of `keys` (None: under μ alone)."""
        size = x.shape[-1]
        mu, sigma = uniform_mu(size), constant_sigma(size)
        kernel_mu = self.param("kernel_mu", mu, (size, self.features))
        kernel_sigma = self.param("kernel_sigma", sigma, (size, self.features))
        bias_mu = self.param("bias_mu", mu, (self.features,))
        bias_sigma = self.param("bias_sigma", sigma, (self.features,))
        mean = x @ kernel_mu + aligned(bias_mu, x.ndim)
        if keys is None:
            return mean
        noise = draw_noise(keys, size, self.features)
        spread = (x * aligned(noise.inputs, x.ndim)) @ kernel_sigma + aligned(bias_sigma, x.ndim)
        return mean + aligned(noise.outputs, x.ndim) * spread


def dense(
    noisy: bool, features: int, name: str, kernel_init: Initializer | None = None
) -> Callable[[jax.Array, jax.Array | None], jax.Array]:
    """A dense layer of either kind, to be bound under the parameter name `name`.

    `kernel_init` (default: Xavier's, uniform) is that of a layer that is not noisy.
    """
    if noisy:
        return NoisyDense(features, name=name)
    layer = nn.Dense(features, kernel_init=kernel_init or xavier_uniform(), name=name)
    return lambda x, _keys: layer(x)
