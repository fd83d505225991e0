"""Lanes give the frames, rewards and terminals of the paper-era preprocessing, each lane as if alone."""

import zlib
from pathlib import Path

import numpy as np
import pytest

from moerl.atari.lanes import AtariLanes, episode_seed
from moerl.atari.regenerate import LoggedEpisode, regenerate

GOLDEN = Path(__file__).parents[1] / "golden"


def crc(frame: np.ndarray) -> int:
    return zlib.crc32(frame.tobytes())


@pytest.mark.parametrize("game", ["pong", "breakout"])
def test_equals_the_paper_era_preprocessing_over_whole_episodes(game):
    golden = np.load(GOLDEN / f"atari-{game}.npz")
    seed = int(golden["run_seed"])
    # The second lane idles beside the first and must not disturb it.
    env = AtariLanes(game, [seed, seed + 1], sticky_actions=0.25, max_episode_steps=27_000)
    position = 0
    for episode, length in enumerate(golden["length"]):
        assert episode_seed(seed, episode) == golden["seed"][episode]
        frame = env.begin_episodes({0: episode})[0]
        assert crc(frame) == golden["first_crc"][episode]
        for i in range(position, position + length):
            step = env.step(np.array([golden["action"][i], 0], dtype=np.int32))
            assert step.rewards[0] == golden["reward"][i]
            assert step.game_over[0] == golden["terminal"][i]
            if not golden["terminal"][i]:  # the terminal frame is never stored
                assert crc(step.frames[0]) == golden["crc"][i]
        position += length
    assert golden["terminal"].sum() == len(golden["length"])


def test_regenerated_lanes_end_together_and_equal_lone_ones():
    rng = np.random.default_rng(0)
    scripts = [
        [LoggedEpisode(0, bytes(rng.integers(4, size=60, dtype=np.uint8)))],
        [],
        [
            LoggedEpisode(4, bytes(rng.integers(4, size=25, dtype=np.uint8))),
            LoggedEpisode(5, bytes(rng.integers(4, size=110, dtype=np.uint8))),
        ],
    ]

    def replay(seeds, wanted):
        env = AtariLanes("breakout", seeds, sticky_actions=0.25, max_episode_steps=27_000)
        seen = [[] for _ in seeds]
        regenerate(
            env,
            wanted,
            lambda lane, frame: seen[lane].append(crc(frame)),
            lambda lane, *rest: seen[lane].append((*rest[:-1], crc(rest[-1]))),
        )
        after = env.step(np.ones(len(seeds), dtype=np.int32))
        return [(events, crc(after.frames[lane])) for lane, events in enumerate(seen)]

    together = replay([7, 8, 9], scripts)
    for lane, seed in ((0, 7), (2, 9)):
        assert replay([seed], [scripts[lane]])[0] == together[lane]
    assert together[1][0] == []
    assert [len(events) for events, _ in together] == [61, 0, 137]


def test_episode_seeds_differ_and_fit_ale():
    seeds = {episode_seed(run, episode) for run in range(30) for episode in range(100)}
    assert len(seeds) == 3000
    assert all(0 <= s < 2**31 for s in seeds)
