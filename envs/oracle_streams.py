"""Record what the paper-era preprocessing and replay buffer do; layout in tests/golden/README.md.

Runs in the oracle's environment (envs/oracle.txt):

    python envs/oracle_streams.py DIRECTORY

writes `atari-<game>.npz` and `replay.npz`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import warnings
import zlib
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.filterwarnings("ignore")

import ale_py  # noqa: E402
import gymnasium  # noqa: E402
import numpy as np  # noqa: E402
from absl import logging  # noqa: E402
from dopamine.discrete_domains import atari_lib  # noqa: E402
from dopamine.replay_memory.circular_replay_buffer import OutOfGraphReplayBuffer  # noqa: E402

logging.set_verbosity(logging.ERROR)
gymnasium.register_envs(ale_py)

RUN_SEED = 3
EPISODES = {"Pong": 2, "Breakout": 5}
CAPACITY = 60
STACK = 4
GAMMA = 0.99
N_STEPS = (1, 3, 10)
STREAM_STEPS = 2_000


class SeededGame:
    """A gymnasium Atari game with the interface Dopamine 4.0.9 expects, seeded before each reset.

    ALE takes the seed when it loads the ROM, as ale-py's vector environment does when it is reset
    with a seed; gymnasium's own `reset(seed=...)` would hash it first.
    """

    def __init__(self, game):
        self.env = gymnasium.make(
            f"ALE/{game}-v5",
            frameskip=1,
            repeat_action_probability=0.25,
            obs_type="grayscale",
            max_num_frames_per_episode=108_000,
        )
        self.ale = self.env.unwrapped.ale
        self.observation_space = self.env.observation_space
        self.action_space = self.env.action_space
        self.seed = 0

    def reset(self):
        self.ale.setInt("random_seed", self.seed)
        self.env.unwrapped.load_game()
        return self.env.reset()[0]

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated or truncated, info


def record_game(game):
    """Play random episodes of `game` through the official preprocessing."""
    shim = SeededGame(game)
    env = atari_lib.AtariPreprocessing(shim)
    rng = np.random.Generator(np.random.Philox(key=RUN_SEED))
    seeds, lengths, first, steps = [], [], [], []
    for episode in range(EPISODES[game]):
        sequence = np.random.SeedSequence((RUN_SEED, episode))
        shim.seed = int(sequence.generate_state(1)[0] >> 1)
        seeds.append(shim.seed)
        first.append(zlib.crc32(env.reset().tobytes()))
        before, over = len(steps), False
        while not over:
            action = int(rng.integers(shim.action_space.n))
            observation, reward, over, _ = env.step(action)
            steps.append((action, int(reward), over, zlib.crc32(observation.tobytes())))
        lengths.append(len(steps) - before)
    action, reward, terminal, crc = zip(*steps, strict=True)
    return {
        "run_seed": np.int32(RUN_SEED),
        "seed": np.array(seeds, np.int32),
        "length": np.array(lengths, np.int32),
        "first_crc": np.array(first, np.uint32),
        "action": np.array(action, np.uint8),
        "reward": np.array(reward, np.int16),
        "terminal": np.array(terminal, np.bool_),
        "crc": np.array(crc, np.uint32),
    }


def replay_stream():
    """2,000 transitions of short and long episodes, terminal or cut; the last one is still running."""
    rng = np.random.Generator(np.random.Philox(key=RUN_SEED))
    columns = {k: [] for k in ("observation", "action", "reward", "terminal", "episode_end")}
    lengths = (1, 2, 3, 12, 5, 30, 1, 1, 4, 25, 11, 2, 45, 7, 16, 3, 90, 6, 20)
    for length in itertools.cycle(lengths):
        cut = rng.random() < 0.4
        left = STREAM_STEPS - len(columns["action"])
        if not left:
            break
        for step in range(min(length, left)):
            last = step == length - 1
            columns["observation"].append(len(columns["observation"]) + 1)
            columns["action"].append(rng.integers(18))
            columns["reward"].append(rng.integers(-1, 2))
            columns["terminal"].append(last and not cut)
            columns["episode_end"].append(last)
    kinds = (np.int32, np.int32, np.float32, np.bool_, np.bool_)
    return {k: np.array(v, t) for (k, v), t in zip(columns.items(), kinds, strict=True)}


def as_frame(identifier):
    """Observation number `identifier` as a frame `[1, 2]` uint8: high byte, low byte."""
    return np.array([divmod(int(identifier), 256)], np.uint8)


def as_identifiers(stack):
    """Inverse of `as_frame` for a stack `[1, 2, 4]`: numbers `[4]`, oldest first."""
    return 256 * stack[0, 0].astype(np.int32) + stack[0, 1]


def record_replay():
    """Feed the stream to legacy buffers of each n-step; list what they would sample."""
    stream = replay_stream()
    buffers = [
        OutOfGraphReplayBuffer((1, 2), STACK, CAPACITY, 1, update_horizon=n, gamma=GAMMA) for n in N_STEPS
    ]
    total = len(stream["action"])
    checks = sorted({*range(10, 80, 7), *range(80, total, 53), total})
    valid = np.zeros((len(checks), len(N_STEPS), CAPACITY), np.bool_)
    samples = []
    for i in range(total):
        for buffer in buffers:
            buffer.add(
                as_frame(stream["observation"][i]), stream["action"][i], stream["reward"][i],
                int(stream["terminal"][i]), episode_end=bool(stream["episode_end"][i]),
            )  # fmt: skip
        if i + 1 in checks:
            check = checks.index(i + 1)
            for k, buffer in enumerate(buffers):
                valid[check, k] = [buffer.is_valid_transition(j) for j in range(CAPACITY)]
                for j in np.flatnonzero(valid[check, k]):
                    samples.append((check, k, j, *sample(buffer, int(j))))
    names = ("check", "n_step", "index", "state", "action", "reward", "next_state", "terminal")
    kinds = (np.int16, np.int8, np.int16, np.int32, np.int32, np.float32, np.int32, np.bool_)
    rows = zip(*samples, strict=True)
    return (
        stream
        | {"capacity": np.int32(CAPACITY), "gamma": np.float64(GAMMA)}
        | {"n_steps": np.array(N_STEPS, np.int32), "checks": np.array(checks, np.int32)}
        | {"valid": valid}
        | {
            f"sample_{name}": np.array(column, kind)
            for name, kind, column in zip(names, kinds, rows, strict=True)
        }
    )


def sample(buffer, index):
    """State, action, n-step reward, next state and terminal of the transition at `index`."""
    names = [element.name for element in buffer.get_transition_elements(1)]
    values = buffer.sample_transition_batch(batch_size=1, indices=[index])
    found = {name: value[0] for name, value in zip(names, values, strict=True)}
    return (
        as_identifiers(found["state"]),
        found["action"],
        found["reward"],
        as_identifiers(found["next_state"]),
        bool(found["terminal"]),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    for game in EPISODES:
        np.savez_compressed(directory / f"atari-{game.lower()}.npz", **record_game(game))
    np.savez_compressed(directory / "replay.npz", **record_replay())


if __name__ == "__main__":
    main()
