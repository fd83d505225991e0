"""What the paper reports of its encoders (Table 4), read off the encoders themselves."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from moerl.networks.encoders import IMPALA_CHANNELS, NATURE_LAYERS, build_encoder
from moerl.study.specs import Encoder, Module, NetworkSpec

IMAGE = (84, 84, 4)


def encoder_facts(encoder: Encoder) -> dict[str, int | str]:
    """Fact by name: channels, filters, strides, convolutions, padding, feature map, parameters."""
    image = jnp.zeros(IMAGE)
    module = build_encoder(NetworkSpec(encoder=encoder, module=Module.BASELINE))
    features, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
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
