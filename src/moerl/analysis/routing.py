"""How a mixture routes: use of its experts, sharpness of its weights, dropped tokens. Not in the paper.

Entropies are in nats: 0 where one of n takes all, log n where all share alike.
Axes: B batch, M tokens, E experts, P slots per expert.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moerl.analysis.features import Array
from moerl.networks.routing import Routing


def entropy(weights: npt.ArrayLike, axis: int) -> Array:
    """Entropy along `axis` of non-negative `weights`, made to sum to 1 there; 0 where all are zero."""
    weights = np.asarray(weights, np.float64)
    total = weights.sum(axis=axis, keepdims=True)
    shares = weights / np.where(total > 0, total, 1.0)
    return np.asarray(-np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)), axis=axis))


def expert_usage(gates: npt.ArrayLike) -> Array:
    """Share of tokens whose highest of `gates` `[B, M, E]` is each expert's, `[E]`; ties to the lowest."""
    gates = np.asarray(gates)
    top = gates.argmax(axis=-1).ravel()
    return np.asarray(np.bincount(top, minlength=gates.shape[-1]) / top.size)


def dropped_tokens(routing: Routing) -> npt.NDArray[np.bool_]:
    """Which tokens come out of the mixture as zeros, `[B, M]`: no slot has a weight for them (SoftMoE: none).

    Told by what a token gets: a SoftMoE's dispatch weights of a token can all underflow to zero.
    """
    return np.asarray(np.asarray(routing.combine).sum(axis=(2, 3)) == 0)


def routing_metrics(routing: Routing) -> dict[str, float]:
    """Metrics of a batch's `routing`, by name.

    `routing_usage_<e>`: share of tokens whose first choice is expert e; `routing_usage_entropy` of
    these shares. `routing_gate_entropy`: of a token's weights per expert. `routing_dispatch_entropy`:
    of a slot's weights per token, over the slots that are in use (Top1: one token each, hence 0).
    `routing_combine_entropy`: of a token's weights per slot. `routing_dropped`: share of tokens that
    reach no slot (SoftMoE: 0).
    """
    dispatch, combine = (np.asarray(x, np.float64) for x in (routing.dispatch, routing.combine))
    usage = expert_usage(routing.gates)
    used = dispatch.sum(axis=1) > 0
    return {
        **{f"routing_usage_{e}": float(share) for e, share in enumerate(usage)},
        "routing_usage_entropy": float(entropy(usage, axis=0)),
        "routing_gate_entropy": float(entropy(routing.gates, axis=-1).mean()),
        "routing_dispatch_entropy": float(entropy(dispatch, axis=1)[used].mean()),
        "routing_combine_entropy": float(entropy(combine.reshape(*combine.shape[:2], -1), axis=-1).mean()),
        "routing_dropped": float(dropped_tokens(routing).mean()),
    }
