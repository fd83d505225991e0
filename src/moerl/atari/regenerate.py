"""Regenerating experience from action logs: replay the logged actions through the emulators.

Several runs are replayed in step, aligned at their ends, so that when the last action has been
replayed every lane stands exactly where its run stood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    scripts = [[(e.index, j, a) for e in lane for j, a in enumerate(e.actions)] for lane in episodes]
    total = max((len(script) for script in scripts), default=0)
    actions = np.zeros(len(env), dtype=np.int32)
    for tick in range(total):
        due = {}
        for lane, script in enumerate(scripts):
            position = tick - (total - len(script))
            if position >= 0:
                due[lane] = script[position]
        starting = {lane: index for lane, (index, within, _) in due.items() if within == 0}
        if starting:
            for lane, frame in env.begin_episodes(starting).items():
                begin(lane, frame)
        for lane, (_, _, action) in due.items():
            actions[lane] = action
        step = env.step(actions)
        for lane, (_, _, action) in due.items():
            observe(lane, action, *step.of(lane))
