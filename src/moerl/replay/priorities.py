"""Prioritised sampling: a two-level sum table over the slots of the frame ring.

The leaves are the slots' priorities; a slot is drawn in proportion to its own. A changed block of
leaves is always summed anew and in order, so sums never drift and depend on the leaves alone: a
table restored from its leaves goes on bit for bit. Schaul et al. 2016 with the constants and rules
of the paper-era Dopamine buffer (method 4.3, 4.6; B1: its later releases sample uniformly instead).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from moerl.replay.ring import SamplingError

Indices = npt.NDArray[np.int64]
Priorities = npt.NDArray[np.float32]
Validity = Callable[[Indices], npt.NDArray[np.bool_]]

BLOCK = 128
"""Leaves per block. Of the powers of two it draws 32 of 1M slots fastest; it decides how sums round."""
_EPSILON = np.float32(1e-10)
_MAX_ROUNDS = 1000


class PriorityError(ValueError):
    """A priority is NaN, infinite or negative; one line. The table is as it was before."""


class PriorityTable:
    """The priorities of one run's replay memory; 0 where nothing, or padding, was written."""

    leaves: Priorities
    """`[capacity]`"""
    sums: npt.NDArray[np.float64]
    """`[ceil(capacity / BLOCK)]`, of the leaves of each block."""
    max_priority: float
    """Largest priority ever recorded, overwritten ones included; that of new transitions."""

    def __init__(self, capacity: int) -> None:
        blocks = -(-capacity // BLOCK)
        self._rows: Priorities = np.zeros((blocks, BLOCK), dtype=np.float32)
        self.leaves = self._rows.reshape(-1)[:capacity]
        self.sums = np.zeros(blocks, dtype=np.float64)
        self.max_priority = 1.0

    def insert(self, first: int, end: int) -> None:
        """Give what one `FrameRing.add` wrote its priorities; the arguments are `add_count` around it.

        The last of the transitions `first..end-1` gets the largest priority ever recorded, the
        padding before it 0.
        """
        for number in range(first, end):
            slot = number % len(self.leaves)
            self.leaves[slot] = self.max_priority if number == end - 1 else 0.0
            block = slot // BLOCK
            self.sums[block] = _running_sums(self._rows[block])[-1]

    def update(self, slots: Indices, priorities: Priorities) -> None:
        """Set the priorities of `slots`; both `[B]`. Of equal slots the last one's priority stays.

        Raises PriorityError, and IndexError for a slot that does not exist.
        """
        values = np.asarray(priorities, dtype=np.float32)
        if values.shape != slots.shape:
            raise ValueError(f"{values.shape} priorities for {slots.shape} slots")
        good = (values >= 0) & (values < np.inf)
        if not good.all():
            k = int(np.argmin(good))
            raise PriorityError(
                f"priority {values[k]} of replay slot {slots[k]}: must be finite and not negative"
            )
        if ((slots < 0) | (slots >= len(self.leaves))).any():
            raise IndexError(f"slots {slots} of a table of {len(self.leaves)}")
        self.leaves[slots] = values  # in order: of duplicates the last stays, as when set in a loop
        self.max_priority = float(values.max(initial=self.max_priority))
        blocks = slots // BLOCK
        self.sums[blocks] = _running_sums(self._rows[blocks])[:, -1]

    def find(self, fractions: npt.NDArray[np.float64]) -> Indices:
        """The slots that lie at `fractions` (`[B]` in [0, 1]) of the total priority, in slot order.

        A slot owns the half-open interval between the sum before it and the sum with it; one of
        priority 0 is never found. Raises SamplingError if all priorities are 0.
        """
        edges = np.zeros(len(self.sums) + 1)
        np.cumsum(self.sums, out=edges[1:])
        if edges[-1] == 0:
            raise SamplingError("cannot sample: the priority of every transition is 0")
        mass = np.minimum(fractions * edges[-1], np.nextafter(edges[-1], 0))
        blocks = np.searchsorted(edges[1:], mass, side="right")
        within = _running_sums(self._rows[blocks])
        # Rounding must not push a query past the last leaf with a priority.
        rest = np.minimum(mass - edges[blocks], np.nextafter(within[:, -1], 0))
        found: Indices = blocks * BLOCK + (within <= rest[:, None]).sum(axis=1)
        return found

    def sample(self, rng: np.random.Generator, batch_size: int, valid: Validity) -> Indices:
        """Draw one slot from each of `batch_size` segments of equal mass, in slot order.

        A slot that is not `valid` (`FrameRing.valid`) is drawn anew from the whole mass. `rng` gives
        `batch_size` uniforms, then in each further round as many as slots are still to be drawn.
        Raises SamplingError if there is no, or almost no, valid slot with a priority.
        """
        slots = self.find((np.arange(batch_size) + rng.random(batch_size)) / batch_size)
        for _ in range(_MAX_ROUNDS):
            pending = np.flatnonzero(~valid(slots))
            if not len(pending):
                return slots
            slots[pending] = self.find(rng.random(len(pending)))
        raise SamplingError(
            f"cannot sample: no valid transition for a whole batch of {batch_size} in {_MAX_ROUNDS} rounds; "
            "too few transitions, or episodes too short?"
        )

    def weights(self, slots: Indices) -> npt.NDArray[np.float32]:
        """Importance weights `[B]` of a batch: 1/√(p + 1e-10), the largest of them scaled to 1."""
        weights: npt.NDArray[np.float32] = 1 / np.sqrt(self.leaves[slots] + _EPSILON)
        weights /= weights.max()
        return weights

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """Everything a checkpoint needs: `leaves` `[capacity]` and `max` `[]`."""
        return {"leaves": self.leaves.copy(), "max": np.array(self.max_priority, dtype=np.float32)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, npt.NDArray[np.float32]]) -> PriorityTable:
        """Inverse of `tensors`. Raises PriorityError if they are not those of a table."""
        leaves, largest = tensors["leaves"], tensors["max"]
        single = leaves.dtype == largest.dtype == np.float32
        if not single or (leaves.ndim, largest.ndim) != (1, 0) or not len(leaves):
            raise PriorityError("not a priority table: leaves or maximum have another type or shape")
        if not (leaves.min() >= 0 and leaves.max() <= largest and 1 <= largest < np.inf):
            raise PriorityError(
                f"not a priority table: from {leaves.min()} to {leaves.max()}, recorded maximum {largest}"
            )
        table = cls(len(leaves))
        table.leaves[:] = leaves
        table.sums[:] = _running_sums(table._rows)[:, -1]
        table.max_priority = float(largest)
        return table


def _running_sums(rows: Priorities) -> npt.NDArray[np.float64]:
    """Running sums along the last axis: unlike `sum`, the order of additions is the same for any batch."""
    return np.cumsum(rows, axis=-1, dtype=np.float64)
