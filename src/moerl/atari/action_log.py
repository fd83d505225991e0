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
        """Inverse of `tensors`; others are ignored.

        Raises ValueError if one is missing or of another type or rank, an episode has no steps, or they are
        longer than the actions.
        """
        found = {}
        for name, kind in (("actions", np.uint8), ("episode_lengths", np.uint32)):
            values = tensors.get(name)
            if values is None or values.dtype != kind or values.ndim != 1:
                what = "is missing" if values is None else f"is {values.dtype} {list(values.shape)}"
                raise ValueError(f"the log's {name} {what}; must be {np.dtype(kind)} of one axis")
            found[name] = values
        lengths: list[int] = found["episode_lengths"].tolist()
        actions = bytearray(found["actions"].tobytes())
        if 0 in lengths:
            raise ValueError(f"episode {lengths.index(0)} of the log has no steps")
        if sum(lengths) > len(actions):
            raise ValueError(f"episodes take {sum(lengths)} steps, the log has {len(actions)} actions")
        return cls(actions, lengths, sum(lengths))

    def check_actions(self, num_actions: int) -> None:
        """Raises ValueError if the log has an action that a game with so many does not have."""
        if self.actions and (largest := max(self.actions)) >= num_actions:
            raise ValueError(f"the log has the action {largest}, the game actions 0 to {num_actions - 1}")
