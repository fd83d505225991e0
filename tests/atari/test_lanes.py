"""Lanes give the frames, rewards and terminals of the paper-era preprocessing, each lane as if alone."""

import zlib
from pathlib import Path

import numpy as np
import pytest

from moerl.atari.lanes import AtariLanes, episode_noops, episode_seed
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


@pytest.mark.parametrize("max_noops", [0, 7])
def test_regenerated_lanes_end_together_and_equal_lone_ones(max_noops):
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
        env = AtariLanes("breakout", seeds, 0.25, 27_000, max_noops)
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


NOOPS = 12


def begun(env: AtariLanes, episodes: dict[int, int], action: int = 0) -> dict[int, tuple[int, np.ndarray]]:
    """Steps until each lane's first frame came, and the frame; the lanes' own action is `action`."""
    seen = {lane: (0, frame) for lane, frame in env.begin_episodes(episodes).items()}
    for tick in range(1, NOOPS + 1):
        assert all(env.waiting(lane) for lane in episodes if lane not in seen)
        step = env.step(np.full(len(env), action, dtype=np.int32))
        assert not set(step.first) & set(seen)
        seen |= {lane: (tick, frame) for lane, frame in step.first.items()}
    return seen


def test_noops_are_played_and_skipped_before_the_first_frame():
    skipping = AtariLanes("pong", [5, 6, 7], 0.0, 27_000, max_noops=NOOPS)
    plain = AtariLanes("pong", [5, 6, 7], 0.0, 27_000)
    for episode in range(4):
        counts = [episode_noops(seed, episode, NOOPS) for seed in (5, 6, 7)]
        # Whatever action is asked of a lane in its no-ops, it plays the no-op.
        seen = begun(skipping, dict.fromkeys(range(3), episode), action=3)
        assert [seen[lane][0] for lane in range(3)] == counts
        frames = list(plain.begin_episodes(dict.fromkeys(range(3), episode)).values())
        for tick in range(NOOPS + 1):
            for lane in range(3):
                if counts[lane] == tick:
                    np.testing.assert_array_equal(seen[lane][1], frames[lane])
            frames = plain.step(np.zeros(3, dtype=np.int32)).frames.copy()


def test_lanes_play_on_beside_one_in_its_noops():
    env = AtariLanes("breakout", [1, 2], 0.25, 27_000, max_noops=NOOPS)
    alone = AtariLanes("breakout", [1], 0.25, 27_000, max_noops=NOOPS)
    begun(env, {0: 0}), begun(alone, {0: 0})
    actions = np.random.default_rng(0).integers(1, 4, 60).astype(np.int32)
    for tick, action in enumerate(actions):
        if tick % 20 == 0:
            env.begin_episodes({1: tick})
        step, other = env.step(np.array([action, 1], np.int32)), alone.step(np.array([action], np.int32))
        np.testing.assert_array_equal(step.frames[0], other.frames[0])
        assert step.rewards[0] == other.rewards[0]


@pytest.mark.parametrize("at", [1, 4])
def test_a_life_lost_in_the_noops_restarts_the_game(at, monkeypatch):
    seed = next(s for s in range(100) if episode_noops(s, 0, NOOPS) == 4)
    env = AtariLanes("pong", [seed], 0.0, 27_000, max_noops=NOOPS)
    original, ticks = env._env.step, []

    def one_life_less(actions):
        frames, rewards, over, cut, info = original(actions)
        ticks.append(actions)
        return frames, rewards, over, cut, info | {"lives": info["lives"] - (len(ticks) == at)}

    monkeypatch.setattr(env._env, "step", one_life_less)
    tick, frame = begun(env, {0: 0})[0]
    assert tick == 4  # the no-ops before the loss count
    plain = AtariLanes("pong", [seed], 0.0, 27_000)
    expected = plain.begin_episodes({0: 0})[0]
    for _ in range(4 - at):
        expected = plain.step(np.zeros(1, dtype=np.int32)).frames[0]
    np.testing.assert_array_equal(frame, expected)


def test_noops_are_uniform_up_to_the_maximum_and_independent_of_the_seed():
    counts = np.array([[episode_noops(run, episode, 29) for episode in range(600)] for run in range(5)])
    assert (np.bincount(counts.ravel(), minlength=30) > 50).all()  # 100 each on average
    assert counts.max() == 29
    seeds = np.array([[episode_seed(run, episode) for episode in range(600)] for run in range(5)])
    assert abs(np.corrcoef(counts.ravel(), seeds.ravel())[0, 1]) < 0.06
    assert {episode_noops(3, episode, 0) for episode in range(20)} == {0}


def test_the_frame_skip_is_not_cut_at_a_lost_life(monkeypatch):
    """Dopamine ends the step at the frame in which a life is lost; ours always has four frames."""
    env = AtariLanes("breakout", [3], 0.0, 27_000)
    original, numbers = env._env.step, []

    def counted(actions):
        result = original(actions)
        numbers.append(int(result[-1]["episode_frame_number"][0]))
        return result

    monkeypatch.setattr(env._env, "step", counted)
    env.begin_episodes({0: 0})
    rng, lost = np.random.default_rng(0), 0
    while lost < 3:
        lost += env.step(rng.integers(0, 4, 1).astype(np.int32)).life_lost[0]
    assert set(np.diff(numbers)) == {4}
