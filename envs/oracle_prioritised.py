"""Drive the paper-era prioritised replay buffer through a random run; record what it does.

Runs in the oracle's environment (envs/oracle.txt):

    python envs/oracle_prioritised.py tests/golden/replay_prioritised.npz

The run adds short episodes, terminal or cut, to a buffer that wraps around several times. Every
`EVERY` additions it draws a batch and sets the priorities of what was drawn; every other time the
second half of the slots set repeats the first. The random numbers of the draws are recorded with
their results. Keys, with N additions, S batches of B, C slots and K times when all are kept:

    terminal, end                 `[N]` bool, of each added transition (padding left out)
    drawn_after, kept_after       `[S]`, `[K]`: additions so far
    uniforms                      `[S, B]`, where in its segment each slot was drawn
    redraws, redraw_counts        `[sum]`, `[S, B]`: draws in place of slots that are not valid
    segments, drawn               `[S, B]`, slots found in the segments, and after redraws
    probabilities                 `[S, B]` float32, their priorities as the agent sees them
    set_slots, set_priorities     `[S, B]`, in the order in which they were set
    max_priority                  `[S]`, after setting them
    leaves, valid                 `[K, C]`, all priorities and valid slots after that
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
from dopamine.replay_memory import sum_tree  # noqa: E402
from dopamine.replay_memory.prioritized_replay_buffer import (  # noqa: E402
    OutOfGraphPrioritizedReplayBuffer,
)

CAPACITY = 700
N_STEP = 3
BATCH_SIZE = 32
ADDITIONS = 2400
WARM_UP = 60
EVERY = 20
KEEP_EVERY = 9


class Draws:
    """Stands in for the module `random` in the buffer's sum tree, and remembers what it gave."""

    def __init__(self, rng):
        self.rng = rng
        self.uniforms = []
        self.redraws = []

    def uniform(self, low, high):
        """One number of a segment."""
        self.uniforms.append(self.rng.random())
        return low + (high - low) * self.uniforms[-1]

    def random(self):
        """One number of the whole mass."""
        self.redraws.append(self.rng.random())
        return self.redraws[-1]


def watch(tree, found):
    """Record every slot that `tree.sample` finds in the list `found`."""
    sample = tree.sample

    def watched(query_value=None):
        found.append(sample(query_value))
        return found[-1]

    tree.sample = watched


def redraw_counts(memory, segments, redrawn):
    """How many of the slots `redrawn` in turn belong to each place of the batch."""
    counts, rest = [], iter(redrawn)
    for slot in segments:
        counts.append(0)
        while not memory.is_valid_transition(slot):
            slot = next(rest)
            counts[-1] += 1
    return counts


def draw(memory, draws, found):
    """Draw one batch; everything that is recorded of it."""
    draws.uniforms, draws.redraws = [], []
    found.clear()
    drawn = memory.sample_index_batch(BATCH_SIZE)
    segments = found[:BATCH_SIZE]
    return {
        "uniforms": draws.uniforms,
        "redraws": draws.redraws,
        "redraw_counts": redraw_counts(memory, segments, found[BATCH_SIZE:]),
        "segments": segments,
        "drawn": drawn,
        "probabilities": memory.get_priority(np.array(drawn, np.int32)),
    }


def set_priorities(memory, rng, drawn, repeat):
    """Set priorities of the slots `drawn`, spread over five decades; what is recorded of it."""
    slots = np.array(drawn, np.int32)
    if repeat:
        slots[BATCH_SIZE // 2 :] = slots[: BATCH_SIZE // 2]
    priorities = (10 ** rng.uniform(-4.5, 0.5, BATCH_SIZE)).astype(np.float32)
    memory.set_priority(slots, priorities)
    return {
        "set_slots": slots,
        "set_priorities": priorities,
        "max_priority": memory.sum_tree.max_recorded_priority,
    }


def record():
    """The whole run, by key."""
    rng = np.random.default_rng(20240506)
    draws, found = Draws(rng), []
    sum_tree.random = draws
    memory = OutOfGraphPrioritizedReplayBuffer(
        (1, 1), stack_size=4, replay_capacity=CAPACITY, batch_size=BATCH_SIZE, update_horizon=N_STEP
    )
    watch(memory.sum_tree, found)
    additions, batches, kept = [], [], []
    left = 0
    for count in range(1, ADDITIONS + 1):
        left = left - 1 if left else int(rng.integers(0, 40))
        terminal = bool(left == 0 and rng.random() < 0.5)
        memory.add(
            np.zeros((1, 1), np.uint8), 0, 0.0, terminal,
            priority=memory.sum_tree.max_recorded_priority, episode_end=left == 0,
        )  # fmt: skip
        additions.append({"terminal": terminal, "end": left == 0})
        if count < WARM_UP or count % EVERY:
            continue
        batch = draw(memory, draws, found)
        batch |= set_priorities(memory, rng, batch["drawn"], repeat=len(batches) % 2 == 1)
        batches.append(batch | {"drawn_after": count})
        if len(batches) % KEEP_EVERY == 0:
            slots = np.arange(CAPACITY, dtype=np.int32)
            valid = [memory.is_valid_transition(int(i)) for i in slots]
            leaves = memory.get_priority(slots)
            kept.append({"leaves": leaves, "valid": valid, "kept_after": count})
    return additions, batches, kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    additions, batches, kept = record()
    types = {
        "redraw_counts": np.uint8, "segments": np.int16, "drawn": np.int16, "set_slots": np.int16,
    }  # fmt: skip
    tensors = {"redraws": np.concatenate([batch.pop("redraws") for batch in batches])}
    for rows in (additions, batches, kept):
        for key in rows[0]:
            tensors[key] = np.array([row[key] for row in rows], types.get(key))
    np.savez_compressed(arguments.file, **tensors)


if __name__ == "__main__":
    main()
