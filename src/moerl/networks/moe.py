"""Mixtures of experts: SoftMoE (Puigcerver et al. 2023) and Top1-MoE (paper section 2, method 3).

Both take the tokens of a state and return as many tokens of the same width.

Axes: M tokens, D token width, E experts, P slots per expert, N = E·P slots in all, H hidden units
of an expert; leading axes (`...`) are batch axes, none for a single state.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import lecun_normal, ones
from jax import lax

from moerl.networks.experts import Experts
from moerl.networks.noisy import draw_normal, per_key
from moerl.networks.routing import (
    Routing,
    slot_averages,
    slots_per_expert,
    soft_logits,
    soft_routing,
    top1_routing,
    top_gate,
)
from moerl.study.specs import ExpertType, Module, NetworkSpec, Phi


class MoEOutput(NamedTuple):
    """What a mixture returns."""

    tokens: jax.Array
    """Combined tokens `[..., M, D]`, linear in the experts' outputs: no ReLU follows."""
    hidden: jax.Array
    """The experts' hidden activations `[..., E, P, H]`, after ReLU."""
    routing: Routing


def drawn_phi(keys: jax.Array | None, shape: tuple[int, int, int]) -> jax.Array:
    """A random Φ `[..., *shape]` from N(0, 1) for each of `keys` `[...]`: one per state, or one for all.

    Without keys it is the same Φ for all states at every call (that of key 0), as in the statistics
    of the published code.
    """
    keys = jax.random.key(0) if keys is None else keys
    return draw_normal(per_key(lambda key: jax.random.split(key)[0], keys), shape)


def soft_parameters(
    module: nn.Module, shape: tuple[int, int, int], kind: Phi, router_keys: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """A SoftMoE's Φ `[D, E, P]` (`[..., D, E, P]` if drawn for each state) and its scalar `[1]`.

    To be called in `module`'s compact method, whose parameters they are. The scalar always counts as
    one; only the normalised variant uses it.
    """
    match kind:
        # B10: on [D, E, P] lecun_normal takes fan_in = D·E, so the deviation is 1/sqrt(D·E).
        case Phi.LEARNED:
            phi = module.param("phi", lecun_normal(), shape)
        case Phi.FROZEN:
            phi = lax.stop_gradient(module.param("phi", lecun_normal(), shape))
        case Phi.REDRAW:
            phi = drawn_phi(router_keys, shape)  # B9
    return phi, module.param("scalar", ones, (1,))


class SoftMoE(nn.Module):
    """Every slot sees a softmax average of all tokens, every token one of all slots (method 3.1).

    The official guard that turns NaN slots into zeros is left out: it changes no finite number, and
    a NaN in the tokens reaches the output through the combine weights anyway.
    """

    num_experts: int
    hidden_units: int
    noisy: bool = False
    phi: Phi = Phi.LEARNED
    normalised: bool = False
    capacity_factor: float = 1.0
    slots: int | None = None

    @nn.compact
    def __call__(
        self, tokens: jax.Array, keys: jax.Array | None = None, router_keys: jax.Array | None = None
    ) -> MoEOutput:
        """Mix `tokens` `[..., M, D]`.

        Args:
            tokens: `[..., M, D]`.
            keys: make the noise of noisy experts, as in `noisy`.
            router_keys: make Φ if it is drawn at every call, as in `drawn_phi`.
        """
        *batch, num_tokens, width = tokens.shape
        slots = slots_per_expert(num_tokens, self.num_experts, self.capacity_factor, self.slots)
        phi, scalar = soft_parameters(self, (width, self.num_experts, slots), self.phi, router_keys)
        phi = phi.reshape(*phi.shape[:-2], -1)
        logits = soft_logits(tokens, phi, scalar if self.normalised else None)
        averages = slot_averages(logits)
        # Raw tokens, also when routing is by normalised ones. Softmax averages are divided by their
        # mass afterwards: [N, D] and [M, D] are smaller than [M, N].
        slot_inputs = jnp.einsum("...mn,...md->...nd", averages.dispatch, tokens)
        slot_inputs = slot_inputs / averages.dispatch_mass[..., None]
        outputs, hidden = Experts(self.hidden_units, self.noisy, name="experts")(
            slot_inputs.reshape(*batch, self.num_experts, slots, width), keys
        )
        slot_outputs = outputs.reshape(*batch, -1, width)
        combined = jnp.einsum("...mn,...nd->...md", averages.combine, slot_outputs)
        combined = combined / averages.combine_mass[..., None]
        return MoEOutput(combined, hidden, soft_routing(logits, averages, self.num_experts))


class Top1MoE(nn.Module):
    """Every token goes to the expert its router prefers, while that has room (method 3.2).

    A token without a slot comes out as zeros; an empty slot runs its expert on zeros.
    """

    num_experts: int
    hidden_units: int
    noisy: bool = False
    router_noise: float = 0.0
    capacity_factor: float = 1.0
    slots: int | None = None

    @nn.compact
    def __call__(
        self, tokens: jax.Array, keys: jax.Array | None = None, router_keys: jax.Array | None = None
    ) -> MoEOutput:
        """Route `tokens` `[..., M, D]`.

        Args:
            tokens: `[..., M, D]`.
            keys: make the noise of noisy experts, as in `noisy`.
            router_keys: make the router's noise: a key per state or one for all; None: no noise.
        """
        slots = slots_per_expert(tokens.shape[-2], self.num_experts, self.capacity_factor, self.slots)
        logits = nn.Dense(self.num_experts, use_bias=False, name="router")(tokens)
        noise = None
        if self.router_noise > 0 and router_keys is not None:
            deviation = self.router_noise / self.num_experts
            noise = deviation * draw_normal(router_keys, logits.shape[-2:])
        routing = top1_routing(logits, noise, slots)
        slot_inputs = jnp.einsum("...mep,...md->...epd", routing.dispatch, tokens)
        outputs, hidden = Experts(self.hidden_units, self.noisy, name="experts")(slot_inputs, keys)
        routed = jnp.einsum("...mep,...epd->...md", routing.dispatch, outputs)
        return MoEOutput(routed * top_gate(routing.gates)[..., None], hidden, routing)


def sizes_of(spec: NetworkSpec, noisy: bool) -> dict[str, Any]:
    """The fields that every mixture in place of a penultimate layer has."""
    return {
        "num_experts": spec.num_experts,
        "hidden_units": spec.hidden_units,
        "noisy": noisy,
        "capacity_factor": spec.capacity_factor,
        "slots": spec.slots_per_expert,
    }


def build_moe(spec: NetworkSpec, noisy: bool = False) -> SoftMoE | Top1MoE:
    """The mixture `spec` names, with noisy or plain experts, to be bound under the parameter name `moe`.

    Raises:
        ValueError: `spec` is a baseline, its module is none of the paper's, or its experts are more than a
            penultimate layer.
    """
    if spec.expert_type is not ExpertType.REGULAR:
        raise ValueError(f"experts of type {spec.expert_type.value!r} are built by `mixtures`")
    sizes = sizes_of(spec, noisy)
    match spec.module:
        case Module.SOFTMOE:
            return SoftMoE(**sizes, phi=spec.phi, normalised=spec.normalised, name="moe")
        case Module.TOP1:
            return Top1MoE(**sizes, router_noise=spec.router_noise, name="moe")
        case Module.BASELINE:
            raise ValueError("a baseline has no mixture of experts")
        case path:
            raise ValueError(f"{path} is built by `custom`")
