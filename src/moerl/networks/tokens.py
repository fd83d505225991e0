"""Tokenisation: how a feature map becomes the tokens that experts see (paper Fig 3).

Axes: H height, W width, C channels; M tokens, D token width; leading axes (`...`) are batch axes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from moerl.study.specs import Tokens


def tokenise(features: jax.Array, tokens: Tokens) -> jax.Array:
    """Cut feature maps `[..., H, W, C]` into tokens `[..., M, D]`.

    PerConv: M = H·W positions in raster order, D = C. PerFeat: M = C channels, D = H·W.
    PerSamp: M = 1, D = H·W·C.
    """
    batch = features.shape[:-3]
    match tokens:
        case Tokens.PERCONV:
            return features.reshape(*batch, -1, features.shape[-1])
        case Tokens.PERFEAT:
            return jnp.swapaxes(features.reshape(*batch, -1, features.shape[-1]), -1, -2)
        case Tokens.PERSAMP:
            return features.reshape(*batch, 1, -1)


def untokenise(mixed: jax.Array, tokens: Tokens, shape: tuple[int, int, int]) -> jax.Array:
    """Undo `tokenise`: feature maps `[..., H, W, C]` of `shape` (H, W, C) from tokens `[..., M, D]`."""
    if tokens is Tokens.PERFEAT:
        mixed = jnp.swapaxes(mixed, -1, -2)
    return mixed.reshape(*mixed.shape[:-2], *shape)
