"""The experts of a mixture: two-layer networks that keep the token width (method 2.4, 3.3).

All experts are one module whose parameters carry a leading expert axis.

Axes: E experts, P slots per expert, R rows, D token width, H hidden units of an expert; leading axes
(`...`) are batch axes, none for a single state.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import variance_scaling, zeros
from jax import lax

from moerl.networks.noisy import aligned, constant_sigma, draw_noise, uniform_mu

per_expert_xavier_uniform = variance_scaling(
    1.0, "fan_avg", "uniform", in_axis=-2, out_axis=-1, batch_axis=(0,)
)
"""Glorot initialisation of a kernel `[E, in, out]` with the fans of one expert's `[in, out]`."""

_barrier: Callable[[jax.Array], jax.Array] = lax.optimization_barrier


def expert_major(slots: jax.Array) -> jax.Array:
    """Gather each expert's rows over the batch: `[..., E, P, D]` to `[E, ...·P, D]`.

    The barrier keeps XLA from merging this cheap transposition into the experts' matrix products,
    where it would transpose their wide hidden activations instead: forward and backward of a
    SoftMoE-8 at batch 32 take 11 ms with it on two cores, 21 ms without.
    """
    rows = jnp.moveaxis(slots, -3, 0).reshape(slots.shape[-3], -1, slots.shape[-1])
    return _barrier(rows)


def batch_major(rows: jax.Array, like: jax.Array) -> jax.Array:
    """Undo `expert_major`: `[E, ...·P, H]` to `[..., E, P, H]`, with the other axes of `like`."""
    *batch, _, slots, _ = like.shape
    experts, _, width = rows.shape
    return jnp.moveaxis(_barrier(rows).reshape(experts, *batch, slots, width), 0, -3)


class ExpertDense(nn.Module):
    """One dense layer per expert: kernel `[E, in, out]`, bias `[E, out]`."""

    features: int

    @nn.compact
    def __call__(self, rows: jax.Array) -> jax.Array:
        """Map `rows` `[E, R, in]` to `[E, R, features]`, each by its expert's own layer."""
        num_experts, _, inputs = rows.shape
        kernel = self.param("kernel", per_expert_xavier_uniform, (num_experts, inputs, self.features))
        bias = self.param("bias", zeros, (num_experts, self.features))
        return jnp.einsum("erd,edh->erh", rows, kernel) + bias[:, None, :]


class NoisyExpertDense(nn.Module):
    """One noisy dense layer per expert; parameters as in `NoisyDense`, with a leading expert axis.

    B11: each expert has its own μ and σ, but a state's noise is the same for all experts and slots.
    """

    features: int

    @nn.compact
    def __call__(self, slots: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Map `slots` `[..., E, P, D]` to rows `[E, ...·P, features]`, in `expert_major`'s order."""
        *_, num_experts, num_slots, width = slots.shape
        mu, sigma = uniform_mu(width), constant_sigma(width)
        kernel_mu = self.param("kernel_mu", mu, (num_experts, width, self.features))
        kernel_sigma = self.param("kernel_sigma", sigma, (num_experts, width, self.features))
        bias_mu = self.param("bias_mu", mu, (num_experts, self.features))
        bias_sigma = self.param("bias_sigma", sigma, (num_experts, self.features))
        mean = jnp.einsum("erd,edh->erh", expert_major(slots), kernel_mu) + bias_mu[:, None, :]
        if keys is None:
            return mean
        noise = draw_noise(keys, width, self.features)
        scaled = expert_major(slots * aligned(noise.inputs, slots.ndim))
        spread = jnp.einsum("erd,edh->erh", scaled, kernel_sigma) + bias_sigma[:, None, :]
        per_state = spread.reshape(num_experts, -1, num_slots, self.features)
        return mean + (noise.outputs.reshape(1, -1, 1, self.features) * per_state).reshape(mean.shape)


class Experts(nn.Module):
    """Two-layer experts that keep the token width: dense or noisy, ReLU, dense (never noisy)."""

    hidden_units: int
    noisy: bool = False

    @nn.compact
    def __call__(self, slots: jax.Array, keys: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Outputs `[..., E, P, D]` and hidden `[..., E, P, H]` for slots `[..., E, P, D]`.

        Deviation from B11: `keys` is None in evaluation, which turns the experts' noise off with the
        head's; the official experts stay noisy.
        """
        if self.noisy:
            rows = NoisyExpertDense(self.hidden_units, name="hidden")(slots, keys)
        else:
            rows = ExpertDense(self.hidden_units, name="hidden")(expert_major(slots))
        hidden = nn.relu(rows)
        outputs = ExpertDense(slots.shape[-1], name="output")(hidden)
        return batch_major(outputs, slots), batch_major(hidden, slots)
