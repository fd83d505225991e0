"""Lanes: one Atari game per run, several runs stepped together by ale-py's C++ vector environment.

Preprocessing is Dopamine's (frame skip 4, max over the last two grayscale frames, 84×84 area
resize, no fire reset; method 4.5). Every episode is seeded from (run seed, episode index), so an
episode is a pure function of its actions, whatever ran before or beside it.

An episode may begin with no-op steps (Atari-100k; method 4.7): the game runs, but nobody sees it, the
rewards count for nothing, and a life lost restarts the game. Their number comes from the same seed.
A lane in its no-ops takes part in `step` like the others, which play on.
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


def episode_noops(run_seed: int, episode: int, max_noops: int) -> int:
    """No-op steps before one episode of one run: 0 to `max_noops`, all equally likely."""
    # The word after the one that `episode_seed` takes.
    return int(np.random.SeedSequence((run_seed, episode)).generate_state(2)[1]) % (max_noops + 1)


@dataclass(frozen=True)
class LaneStep:
    """What one agent step gave in every lane; rewards are unclipped sums over the 4 frames."""

    frames: npt.NDArray[np.uint8]
    """Newest preprocessed frame, `[N, 84, 84]`."""
    rewards: npt.NDArray[np.int32]
    game_over: npt.NDArray[np.bool_]
    life_lost: npt.NDArray[np.bool_]
    """Whether the player has fewer lives than before the step. The game goes on, unless it is over."""
    first: dict[int, Frame]
    """First frames `[84, 84]` of the lanes whose no-ops ended with this step: their episode begins."""

    def of(self, lane: int) -> tuple[int, bool, bool, Frame]:
        """Reward, game over, life lost and frame `[84, 84]` of one lane."""
        return (
            int(self.rewards[lane]),
            bool(self.game_over[lane]),
            bool(self.life_lost[lane]),
            self.frames[lane],
        )


@dataclass
class _Wait:
    """A lane in the no-ops of an episode."""

    episode: int
    left: int
    """No-op steps still to come."""


class AtariLanes:
    """N independent emulators of one game, stepped in parallel; lane i belongs to `run_seeds[i]`."""

    def __init__(
        self,
        rom: str,
        run_seeds: Sequence[int],
        sticky_actions: float,
        max_episode_steps: int,
        max_noops: int = 0,
    ) -> None:
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self._run_seeds, self._max_noops = tuple(run_seeds), max_noops
        # The training loop cuts episodes itself (non-terminal, method 4.2): keep ALE's own cap out of reach.
        frame_cap = (max_episode_steps + max_noops + 2) * FRAMES_PER_STEP
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
        self._waiting: dict[int, _Wait] = {}

    def __len__(self) -> int:
        return len(self._run_seeds)

    def noops(self, lane: int, episode: int) -> int:
        """No-op steps before one episode of a lane."""
        return episode_noops(self._run_seeds[lane], episode, self._max_noops)

    def waiting(self, lane: int) -> bool:
        """Whether the lane is in the no-ops of an episode that was begun."""
        return lane in self._waiting

    def begin_episodes(self, episodes: dict[int, int]) -> dict[int, Frame]:
        """Start episode `episodes[lane]` in each named lane; returns their first frames `[84, 84]`.

        A lane whose episode starts with no-ops is not among them: its first frame comes with a `step`.
        """
        frames = self._reset(episodes)
        for lane, episode in episodes.items():
            self._waiting.pop(lane, None)
            if noops := self.noops(lane, episode):
                self._waiting[lane] = _Wait(episode, noops)
        return {lane: frame for lane, frame in frames.items() if lane not in self._waiting}

    def _reset(self, episodes: dict[int, int]) -> dict[int, Frame]:
        mask = np.zeros(len(self), dtype=np.bool_)
        mask[list(episodes)] = True
        seeds = np.array([episode_seed(self._run_seeds[i], episodes[i]) for i in sorted(episodes)])
        frames, info = self._env.reset(seed=seeds, options={"reset_mask": mask})
        self._lives[mask] = info["lives"][mask]
        return {lane: frames[lane, 0].copy() for lane in episodes}

    def step(self, actions: npt.NDArray[np.int32]) -> LaneStep:
        """Advance every lane by one agent step (4 frames). `actions`: `[N]`, indices of the minimal set.

        A lane in its no-ops plays action 0, the no-op, instead of its own. A lane whose game is over
        restarts by itself unless `begin_episodes` is called first.
        """
        if self._waiting:
            actions = actions.copy()
            actions[list(self._waiting)] = 0
        frames, rewards, game_over, _, info = self._env.step(actions)
        life_lost = info["lives"] < self._lives
        self._lives[:] = info["lives"]
        first = self._wait(frames[:, 0], game_over | life_lost) if self._waiting else {}
        return LaneStep(frames[:, 0], rewards, game_over, life_lost, first)

    def _wait(self, frames: npt.NDArray[np.uint8], lost: npt.NDArray[np.bool_]) -> dict[int, Frame]:
        """Count a no-op step of every waiting lane; returns the first frames of those that have had all."""
        shown = {lane: frames[lane].copy() for lane in self._waiting}
        if again := {lane: wait.episode for lane, wait in self._waiting.items() if lost[lane]}:
            shown |= self._reset(again)
        for wait in self._waiting.values():
            wait.left -= 1
        done = [lane for lane, wait in self._waiting.items() if not wait.left]
        for lane in done:
            del self._waiting[lane]
        return {lane: shown[lane] for lane in done}

    def close(self) -> None:
        """Free the emulators."""
        self._env.close()
