"""The action log: a run's whole experience in one byte per agent step.

Episodes are seeded from (run seed, episode index), so the actions of an episode determine every
frame, reward and terminal of it. The log is therefore at once the checkpoint of the replay memory
and, for a finished run, an offline dataset.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass
class ActionLog:
    """Actions in order, cut into episodes; the last episode may still be running."""

    actions: bytearray = field(default_factory=bytearray)
    """Action index per agent step."""
    episode_lengths: list[int] = field(default_factory=list)
    """Agent steps of each finished episode."""
    finished_steps: int = 0
    """Agent steps in finished episodes."""

    def append(self, action: int) -> None:
        """Log one executed action."""
        self.actions.append(action)

    def end_episode(self) -> None:
        """The episode running so far ends with the last action."""
        self.episode_lengths.append(len(self.actions) - self.finished_steps)
        self.finished_steps = len(self.actions)

    @property
    def running(self) -> bytes:
        """Actions of the episode that has not ended."""
        return bytes(self.actions[self.finished_steps :])

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The log as arrays: `actions` uint8 `[T]`, `episode_lengths` uint32 `[N]`."""
        return {
            "actions": np.frombuffer(bytes(self.actions), dtype=np.uint8),
            "episode_lengths": np.array(self.episode_lengths, dtype=np.uint32),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, npt.NDArray[np.generic]]) -> ActionLog:
        """Inverse of `tensors`. Raises ValueError if the episodes are longer than the actions."""
        lengths = [int(n) for n in tensors["episode_lengths"]]
        actions = bytearray(np.asarray(tensors["actions"], dtype=np.uint8).tobytes())
        if sum(lengths) > len(actions):
            raise ValueError(f"episodes take {sum(lengths)} steps, the log has {len(actions)} actions")
        return cls(actions, lengths, sum(lengths))
