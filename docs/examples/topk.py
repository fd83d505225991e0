"""Top-k routing: every token goes to the k experts its router prefers.

The worked example of docs/extending.md. Sources: Shazeer et al. 2017, section 2.1; Lepikhin et al. 2021
(GShard), algorithm 1.

Axes: M tokens, D token width, E experts, P slots per expert; leading axes (`...`) are batch axes.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from moerl.networks.experts import Experts
from moerl.networks.moe import MoEOutput
from moerl.networks.routing import Routing, slots_per_expert, top1_dispatch
from moerl.study.errors import UserError


def topk_routing(logits: jax.Array, k: int, slots: int) -> Routing:
    """Send each token to the `k` experts whose `logits` `[..., M, E]` are highest, while these have `slots`.

    The k weights of a token are divided by their sum, so that what comes out is an average of its
    experts, whatever share of the softmax the others have; Shazeer et al. get the same weights as a
    softmax over the k highest logits. They stay as they are if one of the choices finds no slot.

    First come, first served: all first choices in the order of the tokens, then all second choices,
    and so on. GShard also drops second choices of small weight at random; here every choice counts.
    """
    *batch, num_tokens, num_experts = logits.shape
    gates = jax.nn.softmax(logits, axis=-1)
    weights, choices = lax.top_k(gates, k)  # [..., M, k], ties to the lowest index
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    queue = jnp.swapaxes(choices, -1, -2).reshape(*batch, k * num_tokens)
    seats = top1_dispatch(queue, num_experts, slots).reshape(*batch, k, num_tokens, num_experts, slots)
    combine = jnp.einsum("...kmep,...mk->...mep", seats, weights)
    return Routing(jnp.sum(seats, axis=-4), combine, logits, gates)


class TopKMoE(nn.Module):
    """Every token goes to its `k` best experts, while they have room.

    A token without any slot comes out as zeros; an empty slot runs its expert on zeros.
    """

    num_experts: int
    hidden_units: int
    noisy: bool
    capacity_factor: float
    slots: int | None
    k: int = 2

    @nn.compact
    def __call__(
        self, tokens: jax.Array, keys: jax.Array | None = None, router_keys: jax.Array | None = None
    ) -> MoEOutput:
        """Route `tokens` `[..., M, D]`; `keys` make the noise of noisy experts, `router_keys` are not used.

        Raises UserError if there are not `k` experts, or if one is chosen of several: its weight would
        always be 1, and the router would not learn (Top1 does not divide by the sum for that reason).
        """
        if not min(2, self.num_experts) <= self.k <= self.num_experts:
            raise UserError(f"TopKMoE: k is {self.k} with {self.num_experts} experts (2 to all; 1 of one)")
        # k slots are asked for by each token.
        places = self.k * tokens.shape[-2]
        slots = slots_per_expert(places, self.num_experts, self.capacity_factor, self.slots)
        logits = nn.Dense(self.num_experts, use_bias=False, name="router")(tokens)
        routing = topk_routing(logits, self.k, slots)
        slot_inputs = jnp.einsum("...mep,...md->...epd", routing.dispatch, tokens)
        outputs, hidden = Experts(self.hidden_units, self.noisy, name="experts")(slot_inputs, keys)
        mixed = jnp.einsum("...mep,...epd->...md", routing.combine, outputs)
        return MoEOutput(mixed, hidden, routing)
