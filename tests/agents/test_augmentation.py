"""DrQ's shift and intensity: what is drawn, and that nothing else happens to a state."""

from __future__ import annotations

import jax
import numpy as np

from moerl.agents.augmentation import augment

RNG = np.random.default_rng(0)


def explained(state, augmented):
    """Offsets and factor that make `augmented` from `state`, both `[C, H, W]`."""
    height, width = state.shape[1:]
    padded = np.pad(state, ((0, 0), (4, 4), (4, 4)), mode="edge").astype(np.float64) / 255
    for down in range(9):
        for right in range(9):
            window = padded[:, down : down + height, right : right + width]
            factor = augmented.sum() / window.sum()
            if np.allclose(window * factor, augmented, atol=1e-5):
                return down, right, factor
    raise AssertionError("not a shifted and scaled copy")


def test_each_state_is_shifted_and_scaled_on_its_own():
    states = RNG.integers(0, 256, (300, 2, 6, 6), dtype=np.uint8)
    augmented = np.asarray(jax.jit(augment)(jax.random.key(0), states))
    found = [explained(s, a) for s, a in zip(states, augmented, strict=True)]
    down, right, factor = (np.array(column) for column in zip(*found, strict=True))
    assert set(down) == set(right) == set(range(8))  # 8, the full shift, is never drawn
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.2
    assert factor.min() >= 0.9 - 1e-6
    assert factor.max() <= 1.1 + 1e-6
    assert 0.03 < factor.std() < 0.06
    assert np.sum(np.isclose(factor, 1.1) | np.isclose(factor, 0.9)) >= 1  # the clip at two deviations
