"""What the paper reports of its networks, read off the networks themselves: Table 4, and sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from moerl.networks.encoders import IMPALA_CHANNELS, NATURE_LAYERS, build_encoder
from moerl.networks.q_network import build_network
from moerl.study.specs import Encoder, HeadSpec, NetworkSpec

IMAGE = (84, 84, 4)


def encoder_facts(encoder: Encoder) -> dict[str, int | str]:
    """Fact by name: channels, filters, strides, convolutions, padding, feature map, parameters."""
    image = jnp.zeros(IMAGE)
    features, variables = jax.eval_shape(build_encoder(encoder).init_with_output, jax.random.key(0), image)
    leaves = jax.tree.leaves(variables)
    kernels = [leaf.shape for leaf in leaves if len(leaf.shape) == 4]
    match encoder:
        case Encoder.CNN:
            channels = [layer[0] for layer in NATURE_LAYERS]
            strides = " / ".join(str(layer[2]) for layer in NATURE_LAYERS)
        case Encoder.IMPALA:
            channels = list(IMPALA_CHANNELS)
            strides = "1, and a max-pool of stride 2 in each stack"
    return {
        "channels": " / ".join(map(str, channels)),
        "filters": " / ".join(str(size) for size in dict.fromkeys(shape[0] for shape in kernels)),
        "strides": strides,
        "convolutions": len(kernels),
        "padding": "SAME",
        "grid": "×".join(map(str, features.shape)),
        "parameters": sum(leaf.size for leaf in leaves),
    }


def count_parameters(network: NetworkSpec, head: HeadSpec, num_actions: int) -> int:
    """Trainable numbers of a Q-network, both μ and σ of noisy layers included. Computes shapes only."""
    shapes = jax.eval_shape(
        build_network(network, num_actions, head).init, jax.random.key(0), jnp.zeros(IMAGE, jnp.uint8)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
