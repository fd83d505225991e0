"""Regenerating experience from action logs: replay the logged actions through the emulators.

Several runs are replayed in step, aligned at their ends, so that when the last action has been
replayed every lane stands exactly where its run stood.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from moerl.atari.lanes import AtariLanes, Frame


@dataclass(frozen=True)
class LoggedEpisode:
    """Actions of one episode of one run; `index` counts the run's episodes from 0."""

    index: int
    actions: bytes


Begin = Callable[[int, Frame], None]
"""Called with (lane, first frame) when a lane begins an episode."""
Observe = Callable[[int, int, int, bool, bool, Frame], None]
"""Called with (lane, action, unclipped reward, game over, life lost, next frame) after each replayed step."""


def regenerate(
    env: AtariLanes, episodes: Sequence[Sequence[LoggedEpisode]], begin: Begin, observe: Observe
) -> None:
    """Replay `episodes[lane]` in every lane of `env`, all lanes ending together.

    A lane with fewer steps waits (its emulator idles on action 0) until the others have caught up.
    """
    scripts = [
        [step for episode in logged for step in _script(episode, env.noops(lane, episode.index))]
        for lane, logged in enumerate(episodes)
    ]
    total = max((len(script) for script in scripts), default=0)
    actions = np.zeros(len(env), dtype=np.int32)
    for tick in range(total):
        due = {}
        for lane, script in enumerate(scripts):
            position = tick - (total - len(script))
            if position >= 0:
                due[lane] = script[position]
        starting = {lane: begun for lane, (begun, _, _) in due.items() if begun is not None}
        if starting:
            for lane, frame in env.begin_episodes(starting).items():
                begin(lane, frame)
        for lane, (_, action, _) in due.items():
            actions[lane] = action
        step = env.step(actions)
        for lane, (_, action, seen) in due.items():
            if seen:
                observe(lane, action, *step.of(lane))
        for lane, frame in step.first.items():
            begin(lane, frame)


def _script(episode: LoggedEpisode, noops: int) -> Iterator[tuple[int | None, int, bool]]:
    """The steps of an episode: the episode if it begins with this one, the action, and whether it is seen."""
    steps = chain(((0, False) for _ in range(noops)), ((action, True) for action in episode.actions))
    for place, (action, seen) in enumerate(steps):
        yield (None if place else episode.index), action, seen
