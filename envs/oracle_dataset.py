"""What the paper-era replay buffer makes of a dataset, and a dump of its own.

Runs in the oracle's environment (envs/oracle.txt):

    python envs/oracle_dataset.py DATA OUT

loads every checkpoint of DATA with the buffer's own `load`, as its offline agents did, and writes what it
gives to OUT/loaded.npz: with the prefix `<checkpoint>-<n_step>-`,

    valid       bool [M]     `is_valid_transition` of every slot
    index       int64 [V]    the valid slots, and of a sample of each:
    state       uint32 [V]   `zlib.crc32` of the stack, oldest frame first
    next_state  uint32 [V]
    action, reward, terminal

and a dump of a ring of 40 slots after 57 transitions, by the buffer's own `save`, to OUT/dump. The frame,
action and reward of the transition i, from 1, are i, i % 18 and i % 2; every ninth is terminal.
"""

from __future__ import annotations

import argparse
import os
import warnings
import zlib
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.filterwarnings("ignore")

import gzip  # noqa: E402

import numpy as np  # noqa: E402
from absl import logging  # noqa: E402
from dopamine.replay_memory.circular_replay_buffer import OutOfGraphReplayBuffer  # noqa: E402

logging.set_verbosity(logging.ERROR)

GAMMA = 0.99
N_STEPS = (1, 3)


def buffer(capacity, n_step):
    """A replay buffer of Atari frames."""
    return OutOfGraphReplayBuffer((84, 84), 4, capacity, 32, update_horizon=n_step, gamma=GAMMA)


def crcs(stacks):
    """Checksums of stacks `[V, 84, 84, 4]`, with the frames first."""
    return np.array([zlib.crc32(np.moveaxis(s, -1, 0).tobytes()) for s in stacks], np.uint32)


def loaded(data):
    """Every checkpoint through `load`."""
    found = {}
    for path in sorted(data.glob("add_count_ckpt.*.gz")):
        number = int(path.name.split(".")[1])
        with gzip.open(data / f"$store$_action_ckpt.{number}.gz") as file:
            capacity = len(np.load(file, allow_pickle=False))
        for n_step in N_STEPS:
            memory = buffer(capacity, n_step)
            memory.load(str(data), str(number))
            valid = np.array([memory.is_valid_transition(i) for i in range(capacity)])
            index = np.flatnonzero(valid)
            names = [element.name for element in memory.get_transition_elements(len(index))]
            batch = dict(zip(names, memory.sample_transition_batch(len(index), list(index)), strict=True))
            values = {"valid": valid, "index": index}
            values |= {name: crcs(batch[name]) for name in ("state", "next_state")}
            values |= {name: batch[name] for name in ("action", "reward", "terminal")}
            found |= {f"{number}-{n_step}-{name}": value for name, value in values.items()}
    return found


def dump(folder):
    """A ring that has wrapped, saved."""
    folder.mkdir()
    memory = buffer(40, 1)
    for i in range(1, 58):
        frame = np.full((84, 84), i, np.uint8)
        memory._add(frame, np.int32(i % 18), np.float32(i % 2), np.uint8(i % 9 == 0))
    memory.save(str(folder), 0)


def main():
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    np.savez(given.out / "loaded.npz", **loaded(given.data))
    dump(given.out / "dump")


if __name__ == "__main__":
    main()
