"""The priority table against hand-computed cases, a naive memory and the paper-era buffer."""

import timeit
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moerl.replay.priorities import BLOCK, PriorityError, PriorityTable
from moerl.replay.ring import FrameRing
from moerl.training.statefile import load, store

GOLDEN = Path(__file__).parents[1] / "golden" / "replay_prioritised.npz"
CAPACITY = 5 * BLOCK + 60
"""Several blocks, the last one not full."""


def everything(slots: np.ndarray) -> np.ndarray:
    return np.ones(len(slots), dtype=np.bool_)


def table_of(leaves: dict[int, float], capacity: int = CAPACITY) -> PriorityTable:
    table = PriorityTable(capacity)
    table.update(np.array(list(leaves), dtype=np.int64), np.array(list(leaves.values()), dtype=np.float32))
    return table


class Scripted:
    """A generator that gives the rounds of numbers it was made with."""

    def __init__(self, rounds):
        self.rounds = list(rounds)

    def random(self, size):
        numbers = np.asarray(self.rounds.pop(0))
        assert numbers.shape == (size,)
        return numbers


class Naive:
    """Priorities without a table: sums and searches go over all of them, in float64."""

    def __init__(self, capacity):
        self.leaves = np.zeros(capacity)
        self.largest = 1.0

    def insert(self, first, end):
        for number in range(first, end - 1):
            self.leaves[number % len(self.leaves)] = 0.0
        self.leaves[(end - 1) % len(self.leaves)] = self.largest

    def update(self, slots, priorities):
        for slot, priority in zip(slots, priorities, strict=True):
            self.leaves[slot] = float(priority)
            self.largest = max(self.largest, float(priority))

    def find(self, fractions):
        upto = np.cumsum(self.leaves)
        last = np.flatnonzero(self.leaves)[-1]
        return [min(last, np.flatnonzero(np.append(upto > f * upto[-1], True))[0]) for f in fractions]


def test_finds_the_slot_whose_interval_holds_the_mass():
    far = BLOCK + 3
    table = table_of({1: 1.0, 3: 2.0, far: 1.0})  # intervals [0, 1), [1, 3), [3, 4)
    fractions = np.array([0.0, 0.2, 0.25, 0.5, np.nextafter(0.75, 0), 0.75, 0.9, 1.0])
    assert table.find(fractions).tolist() == [1, 1, 3, 3, 3, far, far, far]


def test_segments_have_equal_mass_and_others_are_drawn_from_all_of_it():
    table = table_of({1: 1.0, 3: 2.0, 200: 1.0})
    # Segments of mass 1 give 1, 3, 3, 200; slot 3 is refused: 200 in place of one, 1 of the other.
    drawn = table.sample(Scripted([[0.0, 0.5, 0.5, 0.5], [0.9, 0.1]]), 4, lambda slots: slots != 3)
    assert drawn.tolist() == [1, 200, 1, 200]
    # Refusing 1 as well: the first place is drawn anew, too, and another time.
    rng = Scripted([[0.0, 0.5, 0.5, 0.5], [0.5, 0.9, 0.9], [0.9]])
    assert table.sample(rng, 4, lambda slots: slots == 200).tolist() == [200] * 4


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(1, 0)])
def test_extreme_uniforms_stay_on_slots_with_a_priority(uniform):
    rng = np.random.default_rng(3)
    leaves = rng.random(CAPACITY).astype(np.float32)
    leaves[[0, BLOCK - 1, BLOCK, CAPACITY - 1]] = 0
    table = PriorityTable(CAPACITY)
    table.update(np.arange(CAPACITY), leaves)
    for size in (1, 32, 1000):
        drawn = table.sample(Scripted([[uniform] * size]), size, everything)
        assert (leaves[drawn] > 0).all()
        assert drawn[0] == 1 or uniform
        assert drawn[-1] == CAPACITY - 2 or not uniform


def test_rounding_does_not_lead_out_of_a_block():
    # The last mass below the total, less what lies before the block, rounds to the block's whole sum.
    table = table_of({0: 3 * 2.0**-53, BLOCK: 1.0, BLOCK + 1: 2.0**-51})
    total = table.sums.sum()
    assert np.nextafter(total, 0) - table.sums[0] == table.sums[1]
    assert table.find(np.array([1.0])).tolist() == [BLOCK + 1]


def test_of_equal_slots_the_last_priority_stays_but_the_largest_is_recorded():
    table = PriorityTable(CAPACITY)
    table.update(np.array([5, 7, 5, 5, 7]), np.array([9, 2, 8, 3, 4], dtype=np.float32))
    assert table.leaves[[5, 7]].tolist() == [3.0, 4.0]
    assert table.sums.tolist() == [7.0, 0, 0, 0, 0, 0]
    assert table.max_priority == 9.0
    table.insert(10, 11)
    assert table.leaves[10] == 9.0


def test_new_transitions_get_the_largest_priority_and_padding_none():
    table = PriorityTable(6)
    table.insert(0, 4)  # three paddings and the first transition of an episode
    table.insert(4, 5)
    assert table.leaves.tolist() == [0, 0, 0, 1, 1, 0]
    table.update(np.array([4]), np.array([0.5], dtype=np.float32))
    table.insert(5, 9)  # wraps around
    assert table.leaves.tolist() == [0, 0, 1, 1, 0.5, 0]
    assert table.sums.tolist() == [2.5]


def test_weights_are_one_over_the_root_of_the_priority():
    table = table_of({1: 0.25, 2: 4.0, 3: 1.0})
    assert table.weights(np.array([2, 1, 3, 1])) == pytest.approx([0.25, 1.0, 0.5, 1.0], rel=1e-6)
    assert table.weights(np.array([2, 3])).dtype == np.float32


def test_equals_the_naive_memory_over_random_operations():
    rng = np.random.default_rng(1)
    table, naive = PriorityTable(CAPACITY), Naive(CAPACITY)
    count = 0
    for step in range(100_000):
        kind = rng.random() if count else 0.0
        if kind < 0.5:
            end = count + int(rng.choice([1, 4]))
            table.insert(count, end)
            naive.insert(count, end)
            count = end
        elif kind < 0.75:
            slots = rng.integers(0, min(count, CAPACITY), int(rng.integers(1, 40)))
            slots[len(slots) // 2 :] = slots[: len(slots) - len(slots) // 2]
            priorities = (10 ** rng.uniform(-5, 2, len(slots))).astype(np.float32)
            priorities[rng.random(len(slots)) < 0.1] = 0
            table.update(slots, priorities)
            naive.update(slots, priorities)
        else:
            fractions = rng.random(4)
            assert table.find(fractions).tolist() == naive.find(fractions)
        if step % 500 == 0:
            assert (table.leaves == naive.leaves).all()
            assert table.max_priority == naive.largest
            assert table.sums.sum() == pytest.approx(naive.leaves.sum(), rel=1e-12)
    assert count > 100 * CAPACITY


slots = st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, CAPACITY - 2, CAPACITY - 1])
# Sums of these are exact in float64, so both sides must agree on every boundary.
priorities = st.sampled_from([0.0, 2.0**-16, 0.25, 1.0, 3.0, 1024.0])
updates = st.lists(st.tuples(slots, priorities), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(
    operations=st.lists(st.one_of(updates, st.integers(1, 300)), max_size=12),
    fractions=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1), min_size=1, max_size=8),
)
def test_equals_the_naive_memory_on_every_boundary(operations, fractions):
    table, naive = PriorityTable(CAPACITY), Naive(CAPACITY)
    count = 0
    for operation in [1, *operations]:
        if isinstance(operation, int):  # so many padding transitions, and one after them
            table.insert(count, count + operation)
            naive.insert(count, count + operation)
            count += operation
        else:
            where, values = (np.array(column) for column in zip(*operation, strict=True))
            table.update(where, values.astype(np.float32))
            naive.update(where, values)
    assert (table.leaves == naive.leaves).all()
    assert table.max_priority == naive.largest
    assert (table.sums == PriorityTable.from_tensors(table.tensors()).sums).all()
    if naive.leaves.any():
        assert table.find(np.array(fractions)).tolist() == naive.find(fractions)


def test_slots_are_drawn_in_proportion_to_their_priorities():
    rng = np.random.default_rng(5)
    table = PriorityTable(CAPACITY)
    leaves = rng.uniform(0.1, 10, CAPACITY).astype(np.float32)
    leaves[::7] = 0
    table.update(np.arange(CAPACITY), leaves)
    batches, size = 4000, 32
    drawn = np.stack([table.sample(rng, size, lambda slots: slots % 3 > 0) for _ in range(batches)])
    counts = np.bincount(drawn.ravel(), minlength=CAPACITY)
    share = np.where(np.arange(CAPACITY) % 3 > 0, leaves, 0).astype(np.float64)
    expected = batches * size * share / share.sum()
    assert (counts[expected == 0] == 0).all()
    deviations = (counts - expected)[expected > 0] / np.sqrt(expected[expected > 0])
    assert np.abs(deviations).max() < 5
    assert (deviations**2).mean() < 1.3


def test_the_share_of_a_slot_in_a_stratified_batch_hardly_varies():
    table = table_of({0: 5.0, 1: 2.5, BLOCK: 2.5})
    rng = np.random.default_rng(0)
    for _ in range(100):  # 16, 8 and 8 whole segments
        assert table.sample(rng, 32, everything).tolist() == [0] * 16 + [1] * 8 + [BLOCK] * 8


def test_padding_is_never_drawn_even_where_the_ring_allows_it():
    ring = FrameRing(64, n_step=1, gamma=0.5, frame_shape=(2, 2))
    table = PriorityTable(64)
    padding = np.zeros(64, dtype=np.bool_)
    for step in range(150):
        before = ring.add_count
        ring.add(np.ones((2, 2), dtype=np.uint8), 0, 0.0, False, end=step % 6 == 5)
        table.insert(before, ring.add_count)
        written = np.arange(before, ring.add_count) % 64
        padding[written] = True
        padding[written[-1]] = False
    assert (padding & ring.valid(np.arange(64))).any()  # after cut episodes
    drawn = table.sample(np.random.default_rng(0), 10_000, ring.valid)
    assert not padding[drawn].any()
    assert set(drawn) == set(np.flatnonzero(ring.valid(np.arange(64)) & ~padding))


def test_restored_table_goes_on_bit_for_bit(tmp_path):
    rng = np.random.default_rng(2)
    table = PriorityTable(CAPACITY)
    table.insert(0, 1)
    for step in range(1, 300):
        table.insert(4 * step, 4 * step + 1)
        table.update(table.sample(rng, 32, everything), rng.random(32, dtype=np.float32) * 3)
    store(tmp_path / "table", table.tensors(), {})
    restored = PriorityTable.from_tensors(load(tmp_path / "table")[0])
    assert restored.leaves.tobytes() == table.leaves.tobytes()
    assert restored.sums.tobytes() == table.sums.tobytes()
    assert restored.max_priority == table.max_priority > 1
    both = []
    for each in (table, restored):
        rng = np.random.default_rng(9)
        for step in range(50):
            each.insert(2000 + step, 2001 + step)
            drawn = each.sample(rng, 32, everything)
            each.update(drawn, rng.random(32, dtype=np.float32))
        both.append((drawn.tolist(), each.weights(drawn).tobytes(), each.sums.tobytes()))
    assert both[0] == both[1]


def test_tensors_are_a_copy():
    table = table_of({3: 2.0})
    tensors = table.tensors()
    table.update(np.array([3]), np.array([5], dtype=np.float32))
    assert tensors["leaves"][3] == 2.0
    restored = PriorityTable.from_tensors(tensors)
    restored.insert(3, 4)
    restored.update(np.array([3]), np.array([7], dtype=np.float32))
    assert tensors["leaves"][3] == 2.0


@pytest.mark.parametrize(
    ("leaves", "largest"), [([0, np.nan], 1), ([0, -1], 1), ([0, 2], 1), ([0, 1], np.inf), ([0, 0], 0)]
)
def test_tensors_of_no_table_are_refused(leaves, largest):
    tensors = {"leaves": np.array(leaves, dtype=np.float32), "max": np.array(largest, dtype=np.float32)}
    with pytest.raises(PriorityError, match="not a priority table"):
        PriorityTable.from_tensors(tensors)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.5])
def test_bad_priority_is_an_error_and_changes_nothing(bad):
    table = table_of({3: 2.0, 4: 1.0})
    before = table.tensors()
    with pytest.raises(PriorityError, match=rf"priority {bad} of replay slot 4"):
        table.update(np.array([3, 4, 5]), np.array([3, bad, 1], dtype=np.float32))
    assert all((table.tensors()[name] == before[name]).all() for name in before)
    assert table.sums[0] == 3.0


@pytest.mark.parametrize("slot", [-1, CAPACITY, 6 * BLOCK])
def test_slot_that_does_not_exist_is_an_error(slot):
    with pytest.raises(IndexError, match=str(slot)):
        table_of({0: 1.0, slot: 1.0})


def test_as_many_priorities_as_slots():
    with pytest.raises(ValueError, match="priorities for"):
        PriorityTable(CAPACITY).update(np.array([1, 2]), np.array([1], dtype=np.float32))


def test_without_any_priority_sampling_is_an_error():
    table = PriorityTable(CAPACITY)
    with pytest.raises(RuntimeError, match="priority of every transition is 0"):
        table.sample(np.random.default_rng(0), 4, everything)
    table.insert(0, 1)
    assert table.sample(np.random.default_rng(0), 4, everything).tolist() == [0] * 4
    table.update(np.array([0]), np.array([0], dtype=np.float32))
    with pytest.raises(RuntimeError, match="priority of every transition is 0"):
        table.sample(np.random.default_rng(0), 4, everything)


def test_without_a_valid_transition_sampling_is_an_error_not_a_hang():
    ring = FrameRing(64, n_step=3, gamma=0.5, frame_shape=(2, 2))
    table = PriorityTable(64)
    for _ in range(3):
        before = ring.add_count
        ring.add(np.ones((2, 2), dtype=np.uint8), 0, 0.0, False, False)
        table.insert(before, ring.add_count)
    with pytest.raises(RuntimeError, match="too few transitions"):
        table.sample(np.random.default_rng(0), 4, ring.valid)


def test_a_full_size_table_takes_less_than_a_millisecond_per_batch():
    rng = np.random.default_rng(0)
    full = {"leaves": rng.random(1_000_000, dtype=np.float32), "max": np.array(1, dtype=np.float32)}
    table = PriorityTable.from_tensors(full)
    new = rng.random(32, dtype=np.float32)

    def batch() -> None:
        drawn = table.sample(rng, 32, everything)
        table.weights(drawn)
        table.update(drawn, new)

    assert min(timeit.repeat(batch, number=10, repeat=30)) / 10 < 1e-3


def rounds_of(uniforms, counts, redraws):
    """The numbers that one batch of the oracle used, in the order in which `sample` asks for them.

    The oracle redraws one slot until it is valid, then the next; we redraw all that are not at once.
    """
    starts = np.cumsum(counts) - counts
    return [uniforms] + [redraws[(starts + k)[counts > k]] for k in range(int(counts.max()))]


def test_equals_the_paper_era_buffer_operation_by_operation():
    golden = dict(np.load(GOLDEN))
    capacity = golden["leaves"].shape[1]
    ring = FrameRing(capacity, n_step=3, gamma=0.99, frame_shape=(1, 1))
    table = PriorityTable(capacity)
    batch = used = kept = 0
    for i, (terminal, end) in enumerate(zip(golden["terminal"], golden["end"], strict=True), start=1):
        before = ring.add_count
        ring.add(np.zeros((1, 1), dtype=np.uint8), 0, 0.0, bool(terminal), bool(end))
        table.insert(before, ring.add_count)
        if i not in golden["drawn_after"]:
            continue
        uniforms, counts = golden["uniforms"][batch], golden["redraw_counts"][batch].astype(np.int64)
        redraws = golden["redraws"][used : used + counts.sum()]
        segments = (np.arange(len(uniforms)) + uniforms) / len(uniforms)
        assert table.find(segments).tolist() == golden["segments"][batch].tolist()
        rng = Scripted(rounds_of(uniforms, counts, redraws))
        drawn = table.sample(rng, len(uniforms), ring.valid)
        assert not rng.rounds
        assert drawn.tolist() == golden["drawn"][batch].tolist()
        assert table.leaves[drawn].tolist() == golden["probabilities"][batch].tolist()
        table.update(golden["set_slots"][batch].astype(np.int64), golden["set_priorities"][batch])
        assert table.max_priority == golden["max_priority"][batch]
        if i in golden["kept_after"]:
            assert table.leaves.tolist() == golden["leaves"][kept].tolist()
            assert ring.valid(np.arange(capacity)).tolist() == golden["valid"][kept].tolist()
            kept += 1
        used += len(redraws)
        batch += 1
    assert batch == len(golden["drawn"])
    assert kept == len(golden["leaves"])
    assert used == len(golden["redraws"])
