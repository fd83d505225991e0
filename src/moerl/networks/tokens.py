"""Tokenisation: how one feature map becomes the tokens that experts see (paper Fig 3).

Axes: H height, W width, C channels; M tokens, D token width.
"""

from __future__ import annotations

import jax

from moerl.study.specs import Tokens


def tokenise(features: jax.Array, tokens: Tokens) -> jax.Array:
    """Cut one feature map into tokens.

    Args:
        features: `[H, W, C]`.
        tokens: the tokenisation; PerConv makes one token per position, in raster order.

    Returns:
        Tokens `[M, D]`; PerConv: M = H·W, D = C.
    """
    match tokens:
        case Tokens.PERCONV:
            return features.reshape(-1, features.shape[-1])
