"""SoftMoE of whole networks (BIG) and of every layer (ALL): paper section 5.3, Figs 13 to 15; method 3.5.

Routing is PerSamp: a state's whole input is the one token and each expert has one slot, so every
expert sees the input itself, and y = Σ_e softmax_e(x·Φ_e) f_e(x). B13: the published code's BIG is
another network and it has no ALL; these follow the paper's text.

Experts are modules of their own, without a leading expert axis: mapped convolutions become grouped
ones, which took 52 s on one core where this takes 2.2 s (gradients of eight Impalas at batch 32).

Axes: H height, W width, C channels; D width of the flat input, E experts, F hidden units of the
penultimate layer, A actions, Z atoms; leading axes (`...`) are batch axes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from moerl.networks.encoders import build_encoder, encoder_layers
from moerl.networks.heads import Head
from moerl.networks.moe import soft_parameters
from moerl.networks.noisy import dense
from moerl.networks.routing import Routing, slot_averages, soft_logits, soft_routing
from moerl.networks.tokens import tokenise
from moerl.study.specs import HeadSpec, NetworkSpec, Phi, Tokens


class MixtureOutput(NamedTuple):
    """What BIG and ALL compute."""

    head_input: jax.Array
    """Penultimate activation averaged over experts, `[..., F]`: what a shared head takes."""
    hidden: jax.Array
    """The experts' penultimate activations, after ReLU, `[..., E, 1, F]`."""
    logits: jax.Array | None
    """`[..., A, Z]` where heads belong to the mixture, else None."""
    routing: Routing
    """Of the input (BIG), or of the penultimate layer's (ALL)."""


def head_in_mixture(head: HeadSpec) -> bool:
    """Whether each expert has a head. Return distributions (C51) have a shared one (paper section 5.3)."""
    return head.num_atoms == 1


def mix(gates: jax.Array, outputs: list[jax.Array]) -> jax.Array:
    """Average of the experts' `outputs`, E arrays `[..., *]`, weighted by `gates` `[..., E]`."""
    total = jnp.zeros_like(outputs[0])
    for e, output in enumerate(outputs):
        gate = gates[..., e]
        total = total + gate.reshape(*gate.shape, *(1,) * (output.ndim - gate.ndim)) * output
    return total


class SampleMixture(nn.Module):
    """`num_experts` copies of a module, and the weights with which to average their outputs."""

    num_experts: int
    expert: Callable[..., nn.Module]
    """Makes an expert, given a parameter `name`."""
    normalised: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, token: jax.Array, *arguments: Any) -> tuple[list[Any], Routing]:
        """Each expert's output for `x` and further `arguments`, and the routing of `token` `[..., 1, D]`."""
        shape = (token.shape[-1], self.num_experts, 1)
        phi, scalar = soft_parameters(self, shape, Phi.LEARNED, None)
        logits = soft_logits(token, phi[..., 0], scalar if self.normalised else None)
        routing = soft_routing(logits, slot_averages(logits), self.num_experts)
        experts = [self.expert(name=f"expert{e}") for e in range(self.num_experts)]
        return [expert(x, *arguments) for expert in experts], routing


def gates_of(routing: Routing) -> jax.Array:
    """Weights `[..., E]` of the experts for the one token."""
    return routing.gates[..., 0, :]


class Penultimate(nn.Module):
    """Dense layer, plain or noisy, and ReLU."""

    features: int
    noisy: bool

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Map `x` `[..., D]` to `[..., F]`; `keys` as in `noisy`."""
        return nn.relu(dense(self.noisy, self.features, "dense")(x, keys))


class BigExpert(nn.Module):
    """A whole network: encoder, penultimate layer and, unless it is shared, head."""

    spec: NetworkSpec
    num_actions: int
    head: HeadSpec

    @nn.compact
    def __call__(self, image: jax.Array, keys: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        """Penultimate activation `[..., F]` and, with a head, logits `[..., A, Z]`."""
        features = build_encoder(self.spec)(image)
        flat = features.reshape(*features.shape[:-3], -1)
        hidden = Penultimate(self.spec.hidden_units, self.head.noisy, name="hidden")(flat, keys)
        if not head_in_mixture(self.head):
            return hidden, None
        return hidden, Head(self.head, self.num_actions, name="head")(hidden, keys)


class BigMixture(nn.Module):
    """BIG: a SoftMoE of whole networks, routed by the image."""

    spec: NetworkSpec
    num_actions: int
    head: HeadSpec

    @nn.compact
    def __call__(self, image: jax.Array, keys: jax.Array | None) -> MixtureOutput:
        """Evaluate `image` `[..., H, W, C]`; `keys` make the experts' noise, the same for all (B11)."""
        expert = partial(BigExpert, self.spec, self.num_actions, self.head)
        mixture = SampleMixture(self.spec.num_experts, expert, self.spec.normalised, name="experts")
        outputs, routing = mixture(image, tokenise(image, Tokens.PERSAMP), keys)
        hidden, logits = zip(*outputs, strict=True)
        gates = gates_of(routing)
        return MixtureOutput(
            head_input=mix(gates, list(hidden)),
            hidden=jnp.stack(hidden, axis=-2)[..., None, :],
            logits=mix(gates, list(logits)) if head_in_mixture(self.head) else None,
            routing=routing,
        )


class LayerMixtures(nn.Module):
    """ALL: every layer is a SoftMoE of copies of it, routed by its own input.

    A layer is one convolution with its ReLU (Nature CNN), one stack (Impala), the penultimate layer
    with its ReLU, or the head, which stays out of it where it is shared. The paper does not say what
    a layer is.
    """

    spec: NetworkSpec
    num_actions: int
    head: HeadSpec

    @nn.compact
    def __call__(self, image: jax.Array, keys: jax.Array | None) -> MixtureOutput:
        """Evaluate `image` `[..., H, W, C]`; `keys` make the experts' noise, the same for all (B11)."""
        x = image
        for i, layer in enumerate(encoder_layers(self.spec)):
            outputs, routing = self._mixture(layer, f"encoder{i}")(x, tokenise(x, Tokens.PERSAMP))
            x = mix(gates_of(routing), outputs)
        token = tokenise(nn.relu(x), Tokens.PERSAMP)
        penultimate = partial(Penultimate, self.spec.hidden_units, self.head.noisy)
        hidden, routing = self._mixture(penultimate, "hidden")(token[..., 0, :], token, keys)
        mixed = mix(gates_of(routing), hidden)
        logits = None
        if head_in_mixture(self.head):
            head = partial(Head, self.head, self.num_actions)
            outputs, head_routing = self._mixture(head, "head")(mixed, mixed[..., None, :], keys)
            logits = mix(gates_of(head_routing), outputs)
        return MixtureOutput(mixed, jnp.stack(hidden, axis=-2)[..., None, :], logits, routing)

    def _mixture(self, expert: Callable[..., nn.Module], name: str) -> SampleMixture:
        return SampleMixture(self.spec.num_experts, expert, self.spec.normalised, name=name)
