"""Numbers of parameters of network variants, by shape inference alone: nothing is computed.

Under PerConv "Baseline ×n" and a mixture of n experts have very different numbers of parameters,
although the caption of the paper's Fig 1 calls them matched (method 2.5).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from moerl.networks.q_network import build_network
from moerl.study.specs import STACK_SIZE, HeadSpec, NetworkSpec


@cache
def parameter_counts(spec: NetworkSpec, num_actions: int, head: HeadSpec) -> dict[str, int]:
    """Parameters of each part of a network (`encoder`, `hidden` or `moe`, `head`), by its name.

    A noisy layer's σ count, and so do SoftMoE's scalar, which only the normalised variant uses, and a
    frozen Φ, which is never trained; a Φ drawn at every call does not.
    """
    network = build_network(spec, num_actions, head)

    def initialise() -> Any:
        return network.init(jax.random.key(0), jnp.zeros((84, 84, STACK_SIZE), jnp.uint8))["params"]

    # Arrays are made inside only, so that no device is asked for anything.
    params = jax.eval_shape(initialise)
    return {
        part: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(leaves))
        for part, leaves in params.items()
    }
