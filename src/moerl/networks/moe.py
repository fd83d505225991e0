"""Mixtures of experts: SoftMoE (Puigcerver et al. 2023) and Top1-MoE (paper section 2, method 3).

Both take the tokens of a state and return as many tokens of the same width. Experts are a single
module whose parameters carry a leading expert axis.

Axes: M tokens, D token width, E experts, P slots per expert, N = E·P slots in all, H hidden units
of an expert; leading axes (`...`) are batch axes, none for a single state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import lecun_normal, ones, variance_scaling, zeros
from jax import lax

from moerl.networks.noisy import aligned, constant_sigma, draw_noise, uniform_mu
from moerl.study.specs import Module, NetworkSpec

per_expert_xavier_uniform = variance_scaling(
    1.0, "fan_avg", "uniform", in_axis=-2, out_axis=-1, batch_axis=(0,)
)
"""Glorot initialisation of a kernel `[E, in, out]` with the fans of one expert's `[in, out]`."""

_barrier: Callable[[jax.Array], jax.Array] = lax.optimization_barrier


class MoEOutput(NamedTuple):
    """What a mixture returns."""

    tokens: jax.Array
    """Combined tokens `[..., M, D]`, linear in the experts' outputs: no ReLU follows."""
    hidden: jax.Array
    """The experts' hidden activations `[..., E, P, H]`, after ReLU."""


def slots_per_expert(num_tokens: int, num_experts: int) -> int:
    """Slots of each expert at capacity factor 1: the tokens shared out, rounded up."""
    return math.ceil(num_tokens / num_experts)


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


def stable_exp(logits: jax.Array, axis: int) -> jax.Array:
    """Softmax along `axis` before its division: exp(logits - max), in (0, 1] with a 1 in every slice."""
    return jnp.exp(logits - lax.stop_gradient(jnp.max(logits, axis=axis, keepdims=True)))


class SoftMoE(nn.Module):
    """Every slot sees a softmax average of all tokens, every token one of all slots (method 3.1).

    The official guard that turns NaN slots into zeros is left out: it changes no finite number, and
    a NaN in the tokens reaches the output through the combine weights anyway.
    """

    num_experts: int
    hidden_units: int
    noisy: bool = False

    @nn.compact
    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> MoEOutput:
        """Mix `tokens` `[..., M, D]`; `keys` (see `noisy`) make the noise of noisy experts."""
        *batch, num_tokens, width = tokens.shape
        slots = slots_per_expert(num_tokens, self.num_experts)
        # B10: on [D, E, P] lecun_normal takes fan_in = D·E, so the deviation is 1/sqrt(D·E).
        phi = self.param("phi", lecun_normal(), (width, self.num_experts, slots))
        # Counts as a parameter; only the normalised variant (paper section 5.3) uses it.
        self.param("scalar", ones, (1,))
        logits = jnp.einsum("...md,dn->...mn", tokens, phi.reshape(width, -1))
        dispatch = stable_exp(logits, axis=-2)
        combine = stable_exp(logits, axis=-1)
        # Softmax averages, divided by their mass afterwards: [N, D] and [M, D] are smaller than [M, N].
        slot_inputs = jnp.einsum("...mn,...md->...nd", dispatch, tokens)
        slot_inputs = slot_inputs / jnp.sum(dispatch, axis=-2)[..., None]
        outputs, hidden = Experts(self.hidden_units, self.noisy, name="experts")(
            slot_inputs.reshape(*batch, self.num_experts, slots, width), keys
        )
        slot_outputs = outputs.reshape(*batch, -1, width)
        combined = jnp.einsum("...mn,...nd->...md", combine, slot_outputs)
        return MoEOutput(combined / jnp.sum(combine, axis=-1, keepdims=True), hidden)


def top1_dispatch(choice: jax.Array, num_experts: int, slots: int) -> jax.Array:
    """Place tokens in slots of their chosen expert, first come first served.

    B12: experts fill in raster order, not by score; a token whose expert is full gets no slot.

    Args:
        choice: chosen expert of each token, `[..., M]` integers in [0, E).
        num_experts: E.
        slots: P, slots per expert.

    Returns:
        `[..., M, E, P]` float32, 1 where token m sits in slot p of expert e, else 0.
    """
    chosen = jax.nn.one_hot(choice, num_experts, dtype=jnp.int32)
    place = jnp.cumsum(chosen, axis=-2) * chosen - 1  # -1, which is no slot: another's token
    return jax.nn.one_hot(place, slots)


class Top1MoE(nn.Module):
    """Every token goes to the expert its router prefers, while that has room (method 3.2).

    A token without a slot comes out as zeros; an empty slot runs its expert on zeros.
    """

    num_experts: int
    hidden_units: int
    noisy: bool = False

    @nn.compact
    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> MoEOutput:
        """Route `tokens` `[..., M, D]`; `keys` (see `noisy`) make the noise of noisy experts."""
        slots = slots_per_expert(tokens.shape[-2], self.num_experts)
        router = nn.Dense(self.num_experts, use_bias=False, name="router")
        gates = jax.nn.softmax(router(tokens), axis=-1)
        # argmax, like the official top_k, gives ties to the lowest expert index.
        dispatch = top1_dispatch(jnp.argmax(gates, axis=-1), self.num_experts, slots)
        slot_inputs = jnp.einsum("...mep,...md->...epd", dispatch, tokens)
        outputs, hidden = Experts(self.hidden_units, self.noisy, name="experts")(slot_inputs, keys)
        routed = jnp.einsum("...mep,...epd->...md", dispatch, outputs)
        return MoEOutput(routed * jnp.max(gates, axis=-1, keepdims=True), hidden)


def build_moe(spec: NetworkSpec, noisy: bool = False) -> SoftMoE | Top1MoE:
    """The mixture `spec` names, with noisy or plain experts, to be bound under the parameter name `moe`.

    Raises:
        ValueError: `spec` is a baseline.
    """
    match spec.module:
        case Module.SOFTMOE:
            return SoftMoE(spec.num_experts, spec.hidden_units, noisy, name="moe")
        case Module.TOP1:
            return Top1MoE(spec.num_experts, spec.hidden_units, noisy, name="moe")
        case Module.BASELINE:
            raise ValueError("a baseline has no mixture of experts")
