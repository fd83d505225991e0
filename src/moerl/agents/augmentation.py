"""DrQ's augmentation of training states: random shift and intensity (Kostrikov et al. 2020; method 4.7).

Axes: B batch, C stacked frames, H height, W width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

PAD = 4
INTENSITY = 0.05


def _shift(image: jax.Array, down: jax.Array, right: jax.Array) -> jax.Array:
    """`image` `[C, H, W]` padded by its edges, cut out again at offset (`down`, `right`)."""
    padded = jnp.pad(image, ((0, 0), (PAD, PAD), (PAD, PAD)), mode="edge")
    return jax.lax.dynamic_slice(padded, (0, down, right), image.shape)


def augment(key: jax.Array, states: jax.Array) -> jax.Array:
    """Augmented intensities (float32) of `states` `[B, C, H, W]` (uint8).

    Each state is shifted by its own offsets, all its frames alike, and scaled by its own factor
    1 + 0.05·clip(N(0, 1), -2, 2). Offsets are uniform in {0..7}: the full shift 8 is never drawn, as
    in the official code. `key` is consumed.
    """
    intensity_key, shift_key = jax.random.split(key)
    down_key, right_key = jax.random.split(shift_key)
    count = states.shape[0]
    down = jax.random.randint(down_key, (count,), 0, 2 * PAD)
    right = jax.random.randint(right_key, (count,), 0, 2 * PAD)
    normal = jax.random.normal(intensity_key, (count, 1, 1, 1))
    shifted = jax.vmap(_shift)(states, down, right).astype(jnp.float32) / 255.0
    return shifted * (1.0 + INTENSITY * jnp.clip(normal, -2.0, 2.0))
