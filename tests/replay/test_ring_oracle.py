"""The frame ring against the paper-era buffer: 2,000 recorded steps with cuts, terminals and wrap-around."""

from pathlib import Path

import numpy as np
import pytest

from moerl.replay.ring import FrameRing

GOLDEN = Path(__file__).parents[1] / "golden" / "replay.npz"


def identifiers(stacks: np.ndarray) -> np.ndarray:
    """Observation numbers `[B, 4]` of stacks `[B, 4, 1, 2]`."""
    return 256 * stacks[:, :, 0, 0].astype(np.int32) + stacks[:, :, 0, 1]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["1-step", "3-step", "10-step"])
def test_valid_slots_and_samples_equal_the_legacy_buffer(which):
    golden = np.load(GOLDEN)
    n_step, capacity = int(golden["n_steps"][which]), int(golden["capacity"])
    ring = FrameRing(capacity, n_step, float(golden["gamma"]), frame_shape=(1, 2))
    slots = np.arange(capacity)
    checks = golden["checks"].tolist()
    compared = 0
    for i in range(len(golden["observation"])):
        observation = np.array([divmod(int(golden["observation"][i]), 256)], dtype=np.uint8)
        terminal, end = bool(golden["terminal"][i]), bool(golden["episode_end"][i])
        ring.add(observation, int(golden["action"][i]), float(golden["reward"][i]), terminal, end)
        if i + 1 not in checks:
            continue
        check = checks.index(i + 1)
        assert np.array_equal(ring.valid(slots), golden["valid"][check, which])
        rows = np.flatnonzero((golden["sample_check"] == check) & (golden["sample_n_step"] == which))
        sample = ring.gather(golden["sample_index"][rows].astype(np.int64))
        assert np.array_equal(identifiers(sample.state), golden["sample_state"][rows])
        assert np.array_equal(sample.action, golden["sample_action"][rows])
        assert np.array_equal(sample.terminal, golden["sample_terminal"][rows])
        # NumPy sums eight or more terms pairwise, so only 10-step sums may differ, in their last bit.
        rounding = 0.0 if n_step < 8 else 5e-7
        np.testing.assert_allclose(sample.reward, golden["sample_reward"][rows], rtol=0, atol=rounding)
        going_on = ~sample.terminal
        expected_next = golden["sample_next_state"][rows]
        assert np.array_equal(identifiers(sample.next_state[going_on]), expected_next[going_on])
        compared += len(rows)
    assert len(golden["observation"]) == 2_000
    assert compared > 1_000
