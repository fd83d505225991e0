"""Tokenisation: how a feature map becomes the tokens that experts see (paper Fig 3).

Axes: H height, W width, C channels; M tokens, D token width; leading axes (`...`) are batch axes.
"""

from __future__ import annotations

import jax

from moerl.study.specs import Tokens


def tokenise(features: jax.Array, tokens: Tokens) -> jax.Array:
    """Cut feature maps into tokens.

    Args:
        features: `[..., H, W, C]`.
        tokens: the tokenisation; PerConv makes one token per position, in raster order.

    Returns:
        Tokens `[..., M, D]`; PerConv: M = H·W, D = C.
    """
    match tokens:
        case Tokens.PERCONV:
            return features.reshape(*features.shape[:-3], -1, features.shape[-1])
