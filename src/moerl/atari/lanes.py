"""Lanes: one Atari game per run, several runs stepped together by ale-py's C++ vector environment.

Preprocessing is Dopamine's (frame skip 4, max over the last two grayscale frames, 84×84 area
resize, no no-op starts, no fire reset; method 4.5). Every episode is seeded from (run seed, episode
index), so an episode is a pure function of its actions, whatever ran before or beside it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ale_py import ALEInterface, LoggerMode
from ale_py.vector_env import AtariVectorEnv

from moerl.study.specs import FRAMES_PER_STEP

FRAME_SHAPE = (84, 84)
Frame = npt.NDArray[np.uint8]


def episode_seed(run_seed: int, episode: int) -> int:
    """ALE seed (31 bits) of one episode of one run; `episode` counts from 0."""
    return int(np.random.SeedSequence((run_seed, episode)).generate_state(1)[0] >> 1)


@dataclass(frozen=True)
class LaneStep:
    """What one agent step gave in every lane; rewards are unclipped sums over the 4 frames."""

    frames: npt.NDArray[np.uint8]
    """Newest preprocessed frame, `[N, 84, 84]`."""
    rewards: npt.NDArray[np.int32]
    game_over: npt.NDArray[np.bool_]
    life_lost: npt.NDArray[np.bool_]
    """Whether the player has fewer lives than before the step. The game goes on, unless it is over."""

    def of(self, lane: int) -> tuple[int, bool, bool, Frame]:
        """Reward, game over, life lost and frame `[84, 84]` of one lane."""
        return (
            int(self.rewards[lane]),
            bool(self.game_over[lane]),
            bool(self.life_lost[lane]),
            self.frames[lane],
        )


class AtariLanes:
    """N independent emulators of one game, stepped in parallel; lane i belongs to `run_seeds[i]`."""

    def __init__(
        self,
        rom: str,
        run_seeds: Sequence[int],
        sticky_actions: float,
        max_episode_steps: int,
    ) -> None:
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self._run_seeds = tuple(run_seeds)
        # The training loop cuts episodes itself (non-terminal, method 4.2): keep ALE's own cap out of reach.
        frame_cap = (max_episode_steps + 2) * FRAMES_PER_STEP
        self._env = AtariVectorEnv(
            rom,
            len(self._run_seeds),
            num_threads=min(len(os.sched_getaffinity(0)), len(self._run_seeds)),
            stack_num=1,
            noop_max=0,
            use_fire_reset=False,
            reward_clipping=False,
            repeat_action_probability=sticky_actions,
            max_num_frames_per_episode=frame_cap,
        )
        self.num_actions = len(self._env.ale.get_action_set())
        _, info = self._env.reset(seed=np.array([episode_seed(s, 0) for s in self._run_seeds]))
        self._lives = info["lives"].copy()

    def __len__(self) -> int:
        return len(self._run_seeds)

    def begin_episodes(self, episodes: dict[int, int]) -> dict[int, Frame]:
        """Start episode `episodes[lane]` in each named lane; returns their first frames `[84, 84]`."""
        mask = np.zeros(len(self), dtype=np.bool_)
        mask[list(episodes)] = True
        seeds = np.array([episode_seed(self._run_seeds[i], episodes[i]) for i in sorted(episodes)])
        frames, info = self._env.reset(seed=seeds, options={"reset_mask": mask})
        self._lives[mask] = info["lives"][mask]
        return {lane: frames[lane, 0].copy() for lane in episodes}

    def step(self, actions: npt.NDArray[np.int32]) -> LaneStep:
        """Advance every lane by one agent step (4 frames). `actions`: `[N]`, indices of the minimal set.

        A lane whose game is over restarts by itself unless `begin_episodes` is called first.
        """
        frames, rewards, game_over, _, info = self._env.step(actions)
        life_lost = info["lives"] < self._lives
        self._lives[:] = info["lives"]
        return LaneStep(frames[:, 0], rewards, game_over, life_lost)

    def close(self) -> None:
        """Free the emulators."""
        self._env.close()
