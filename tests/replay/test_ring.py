"""The frame ring against hand-computed cases and a slow, obvious replay memory."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moerl.replay.ring import FrameRing

GAMMA = 0.5


def frame(identity: int) -> np.ndarray:
    return np.full((2, 2), identity, dtype=np.uint8)


def fill(ring: FrameRing, episodes: list[tuple[int, bool]], first: int = 1) -> int:
    """Add episodes of (length, terminal); frame ids count up from `first`, reward = id, action = id % 5."""
    identity = first
    for length, terminal in episodes:
        for step in range(length):
            end = step == length - 1
            ring.add(frame(identity), identity % 5, float(identity), end and terminal, end)
            identity += 1
    return identity


def ids(stack: np.ndarray) -> list[int]:
    return stack[:, 0, 0].tolist()


def test_final_reward_is_kept_and_starts_are_padded():
    ring = FrameRing(32, n_step=1, gamma=GAMMA, frame_shape=(2, 2))
    fill(ring, [(3, True), (4, True)])  # slots 0-2 padding, 3-5 frames 1-3, 6-8 padding, 9-12 frames 4-7
    everything = np.arange(32)
    assert everything[ring.valid(everything)].tolist() == [3, 4, 5, 9, 10, 11]
    sample = ring.gather(np.array([3, 5]))
    assert ids(sample.state[0]) == [0, 0, 0, 1]
    assert ids(sample.next_state[0]) == [0, 0, 1, 2]
    assert sample.reward.tolist() == [1.0, 3.0]
    assert sample.action.tolist() == [1, 3]
    assert sample.terminal.tolist() == [False, True]


def test_n_step_reward_stops_at_the_terminal():
    ring = FrameRing(32, n_step=3, gamma=GAMMA, frame_shape=(2, 2))
    fill(ring, [(4, True), (6, True)])
    sample = ring.gather(np.array([3, 5, 6]))
    assert sample.reward.tolist() == [1 + 2 * 0.5 + 3 * 0.25, 3 + 4 * 0.5, 4.0]
    assert sample.terminal.tolist() == [False, True, True]
    assert ids(sample.next_state[0]) == [1, 2, 3, 4]


def test_cut_episode_is_not_bootstrapped_across():
    ring = FrameRing(32, n_step=2, gamma=GAMMA, frame_shape=(2, 2))
    fill(ring, [(4, False), (6, True)])  # slots 3-6, cut at 6
    assert ring.valid(np.array([3, 4, 5, 6])).tolist() == [True, True, False, False]
    # Legacy quirk: padding after a cut (not after a terminal) may be sampled.
    assert ring.valid(np.array([7, 8, 9])).tolist() == [True, True, True]


@dataclass
class Slow:
    """Keeps everything ever added in one list; asks each rule of method 4.6 in words."""

    capacity: int
    n_step: int

    def __post_init__(self):
        self.items: list[tuple[int, float, bool, bool]] = []
        self.start = True

    def add(self, identity, reward, terminal, end):
        if self.start:
            self.items += [(0, 0.0, False, False)] * 3
        self.start = end or terminal
        self.items.append((identity, reward, terminal, end and not terminal))

    def valid(self, age_index: int) -> bool:
        """`age_index` counts everything ever added."""
        newest = len(self.items)
        # Legacy quirk: a full memory leaves out one slot more than the stack needs.
        oldest = newest - self.capacity + 1 if newest >= self.capacity else 0
        if age_index - 3 < oldest or age_index + self.n_step >= newest:
            return False
        if any(terminal for _, _, terminal, _ in self.items[age_index - 3 : age_index]):
            return False
        return not any(cut for *_, cut in self.items[age_index : age_index + self.n_step])


@settings(max_examples=60, deadline=None)
@given(
    episodes=st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=12),
    capacity=st.integers(16, 40),
    n_step=st.sampled_from([1, 3, 10]),
)
def test_equals_the_slow_memory(episodes, capacity, n_step):
    ring = FrameRing(capacity, n_step, GAMMA, frame_shape=(2, 2))
    slow = Slow(capacity, n_step)
    fill(ring, episodes)
    identity = 1
    for length, terminal in episodes:
        for step in range(length):
            end = step == length - 1
            slow.add(identity, float(identity), end and terminal, end)
            identity += 1
    total = len(slow.items)
    assert ring.add_count == total
    expected = sorted(i % capacity for i in range(max(total - capacity, 0), total) if slow.valid(i))
    slots = np.arange(capacity)
    assert slots[ring.valid(slots)].tolist() == expected
    for i in range(max(total - capacity, 0), total):
        if slow.valid(i):
            sample = ring.gather(np.array([i % capacity]))
            window = slow.items[i : i + n_step]
            ends = [t for _, _, t, _ in window]
            length = ends.index(True) + 1 if True in ends else n_step
            assert sample.reward[0] == sum(GAMMA**k * window[k][1] for k in range(length))
            assert ids(sample.state[0]) == [item[0] for item in slow.items[i - 3 : i + 1]]
            assert sample.terminal[0] == (True in ends)
            if True not in ends:
                assert ids(sample.next_state[0]) == [
                    item[0] for item in slow.items[i + n_step - 3 : i + n_step + 1]
                ]


def test_sampling_is_uniform_over_valid_slots():
    ring = FrameRing(64, n_step=1, gamma=GAMMA, frame_shape=(2, 2))
    fill(ring, [(7, True)] * 12)
    drawn = ring.sample_indices(np.random.default_rng(0), 40_000)
    slots = np.arange(64)
    valid = slots[ring.valid(slots)]
    counts = np.bincount(drawn, minlength=64)
    assert set(np.flatnonzero(counts)) == set(valid)
    expected = 40_000 / len(valid)
    assert np.abs(counts[valid] - expected).max() < 5 * np.sqrt(expected)


def test_too_few_transitions_is_an_error():
    ring = FrameRing(64, n_step=3, gamma=GAMMA, frame_shape=(2, 2))
    with pytest.raises(RuntimeError, match="too few"):
        ring.sample_indices(np.random.default_rng(0), 4)
    fill(ring, [(3, False)] * 6)  # every window of 3 reaches a cut, but for the padding
    with pytest.raises(ValueError, match="cannot hold"):
        FrameRing(6, n_step=3, gamma=GAMMA)


def test_no_valid_transition_is_an_error_not_a_hang():
    ring = FrameRing(64, n_step=10, gamma=GAMMA, frame_shape=(2, 2))
    fill(ring, [(2, False)] * 10)
    with pytest.raises(RuntimeError, match="no valid transition"):
        ring.sample_indices(np.random.default_rng(0), 4)
